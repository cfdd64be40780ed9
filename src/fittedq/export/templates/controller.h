/* $about */
#ifndef FQ_CONTROLLER_H
#define FQ_CONTROLLER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define FQ_OBSERVATIONS $observations
#define FQ_ACTIONS $actions
#define FQ_WEIGHTS_CRC ${crc}u

/* What fq_step tells: whose action it is. All but FQ_OK and FQ_LIMITED give the fallback. */
enum {
    FQ_OK = 0,          /* the policy's action */
    FQ_NOT_FINITE = 1,  /* an observation is NaN or infinite */
    FQ_FAILED = 3,      /* the policy has no finite action here */
    FQ_UNFAMILIAR = 4,  /* what is seen is not familiar by the data that were learned from */
    FQ_LIMITED = 5      /* the policy's action, held back by a rate or an inequality */
};

/* The state of one controller, and the room it works in. */
typedef struct {
$state
} fq_controller;

/* An episode begins; call it before the first step. */
void fq_init(fq_controller *c);

/* An episode begins, as though the action `before` had been executed until then: where the plant runs already. It is
   as fq_init where `before` is not finite. */
void fq_init_at(fq_controller *c, const float *before);

/* What was executed instead at the last sample: in shadow mode, the action of the controller that is in charge. A value
   that is not finite changes nothing. */
void fq_follow(fq_controller *c, const float *executed);

/* It takes over: from the action `present` it moves towards its own, by at most the range of actions / samples in a
   sample, until it has met it; FQ_LIMITED tells that it is on its way. Call it after fq_init, or after shadow mode. */
void fq_take_over(fq_controller *c, const float *present, int samples);

/* One sample: FQ_OBSERVATIONS numbers in, FQ_ACTIONS numbers out; gives the status. Every loop in it is bounded. */
int fq_step(fq_controller *c, const float *obs, float *action);

/* Whether weights and compiler are what they were: 0, or 1 (a weight was changed) + 2 (an action is another). It uses
   c; call fq_init afterwards. */
int fq_self_test(fq_controller *c);

/* What this controller is, line by line; NULL ends it. */
extern const char *const fq_metadata[];

/* FQ_OBSERVATIONS, FQ_ACTIONS, sizeof(fq_controller): for who loads it as a library. */
extern const unsigned fq_sizes[3];

#ifdef __cplusplus
}
#endif

#endif
