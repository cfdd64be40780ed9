/* $about
   Written by fittedq. C99; needs libm for tanh, exp and the like, or nothing at all with -DFQ_NO_LIBM. */

#include "controller.h"

#include <string.h>
#ifndef FQ_NO_LIBM
#include <math.h>
#endif

#ifdef __cplusplus
#define FQ_RESTRICT __restrict
#else
#define FQ_RESTRICT restrict
#endif
#define FQ_BLOCK $block
#define FQ_LANES 16
$defines
$functions

/* ---------------------------------------------------------------- the numbers */

$tables

/* ---------------------------------------------------------------- the controller */

$see$solver/* The policy: z in, its action out. */
static void fq_policy(fq_controller *c, const float *z, float *a)
{
$policy
}

${guard}void fq_init(fq_controller *c)
{
    memset(c, 0, sizeof *c);
    fq_copy(FQ_ACTIONS, fq_start, c->executed);
}

void fq_init_at(fq_controller *c, const float *before)
{
    fq_init(c);
    fq_follow(c, before);
}

void fq_follow(fq_controller *c, const float *executed)
{
    if (fq_finite(executed, FQ_ACTIONS)) {
        fq_copy(FQ_ACTIONS, executed, c->executed);
    }
}

void fq_take_over(fq_controller *c, const float *present, int samples)
{
    fq_follow(c, present);
    c->crossing = samples > 0 ? samples : 0;
}

/* Whether u is held back on its way from `last` to what was decided: u = last + share (decided - last). All actions
   move together; whole numbers, whose width stands as 0, change at once. */
static int fq_on_its_way(fq_controller *c, const float *last)
{
    float share = 1.0f;
    int i;
    for (i = 0; i < FQ_ACTIONS; ++i) {
        const float change = c->executed[i] - last[i];
        const float size = change < 0.0f ? -change : change;
        const float most = fq_width[i] / (float)c->crossing;
        if (most > 0.0f && size * share > most) {
            share = most / size;
        }
    }
    if (!(share < 1.0f)) {
        c->crossing = 0;
        return 0;
    }
    for (i = 0; i < FQ_ACTIONS; ++i) {
        if (fq_width[i] > 0.0f) {
            c->executed[i] = last[i] + share * (c->executed[i] - last[i]);
        }
    }
    return 1;
}

int fq_step(fq_controller *c, const float *obs, float *action)
{
    int status = FQ_NOT_FINITE;
    float a[FQ_ACTIONS], last[FQ_ACTIONS];
    fq_copy(FQ_ACTIONS, c->executed, last);
    if (fq_finite(obs, FQ_OBSERVATIONS)) {
        status = FQ_FAILED;
$decide
    }
    if (status == FQ_NOT_FINITE || status == FQ_FAILED) {
$fallback
    }
    $reached
    if (c->crossing > 0 && fq_on_its_way(c, last) != 0 && status == FQ_OK) {
        status = FQ_LIMITED;
    }
    fq_copy(FQ_ACTIONS, c->executed, action);
    return status;
}

/* ---------------------------------------------------------------- the self-test */

static const uint32_t fq_golden_obs[$golden * FQ_OBSERVATIONS] = {
$golden_obs
};
static const float fq_golden_action[$golden * FQ_ACTIONS] = {
$golden_action
};
static const int8_t fq_golden_status[$golden] = {$golden_status};
static const int8_t fq_golden_begins[$golden] = {$golden_begins};

int fq_self_test(fq_controller *c)
{
    uint32_t crc = 0xffffffffu;
    int wrong = 0, sample, i;
$crcs
    if ((crc ^ 0xffffffffu) != FQ_WEIGHTS_CRC) {
        wrong |= 1;
    }
    for (sample = 0; sample < $golden; ++sample) {
        float obs[FQ_OBSERVATIONS], action[FQ_ACTIONS];
        int status;
        memcpy(obs, fq_golden_obs + sample * FQ_OBSERVATIONS, sizeof obs);
        if (fq_golden_begins[sample] != 0) {
            fq_init(c);
        }
        status = fq_step(c, obs, action);
        if (status != fq_golden_status[sample]) {
            wrong |= 2;
        }
        for (i = 0; i < FQ_ACTIONS; ++i) {
            const float off = action[i] - fq_golden_action[sample * FQ_ACTIONS + i];
            if (!(off <= fq_tolerance[i] && -off <= fq_tolerance[i])) {
                wrong |= 2;
            }
        }
    }
    return wrong;
}

const unsigned fq_sizes[3] = {FQ_OBSERVATIONS, FQ_ACTIONS, (unsigned)sizeof(fq_controller)};

const char *const fq_metadata[] = {
$metadata
    0
};
