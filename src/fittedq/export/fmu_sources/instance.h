/* One instance of the controller as an FMU: what FMI 2 and FMI 3 share. No instance knows of another.
 *
 * Outputs are those of the newest inputs: where an input was set, they are computed on a copy of the state.
 * A step takes them over: it ends a sample, and the state moves on.
 */
#ifndef FQ_FMU_INSTANCE_H
#define FQ_FMU_INSTANCE_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "controller.h"
#include "fmu.h" /* FMU_TOKEN, FMU_IDENTIFIER, FMU_SAMPLE in s (0: each step is one sample) */

#if defined(_WIN32)
#define FMU_EXPORT __declspec(dllexport)
#elif defined(__GNUC__)
#define FMU_EXPORT __attribute__((visibility("default")))
#else
#define FMU_EXPORT
#endif

/* Value references: 0 is the time, then come observations, actions, and the status. */
enum {
    FMU_TIME = 0,
    FMU_FIRST_OBS = 1,
    FMU_FIRST_ACTION = FMU_FIRST_OBS + FQ_OBSERVATIONS,
    FMU_STATUS = FMU_FIRST_ACTION + FQ_ACTIONS
};

/* What a snapshot holds: plain numbers. */
typedef struct {
    fq_controller state;
    float obs[FQ_OBSERVATIONS];
    float action[FQ_ACTIONS];
    int32_t status;
    int32_t changed; /* an input was set after the outputs were computed */
    double time;
} fmu_data;

typedef enum { FMU_NEW, FMU_INITIALIZING, FMU_STEPPING, FMU_OVER } fmu_mode;

static void fmu_begin(fmu_data *data) {
    memset(data, 0, sizeof *data);
    fq_init(&data->state);
    data->changed = 1;
}

static void fmu_outputs(fmu_data *data) {
    if (data->changed) {
        fq_controller ahead = data->state;
        data->status = (int32_t)fq_step(&ahead, data->obs, data->action);
        data->changed = 0;
    }
}

/* The samples in a communication step; 0: it is no multiple of the sample time. */
static long fmu_samples(double step) {
    double count = FMU_SAMPLE > 0.0 ? floor(step / FMU_SAMPLE + 0.5) : 1.0;
    if (!(step > 0.0) || !(count >= 1.0) || count > 1e9) {
        return 0;
    }
    if (FMU_SAMPLE > 0.0 && fabs(step - count * FMU_SAMPLE) > 1e-6 * FMU_SAMPLE) {
        return 0;
    }
    return (long)count;
}

static void fmu_advance(fmu_data *data, long samples, double time) {
    while (samples-- > 0) {
        data->status = (int32_t)fq_step(&data->state, data->obs, data->action);
    }
    data->changed = 0;
    data->time = time;
}

/* 1: the variable is there, and was read or written; 0: there is no such one. */
static int fmu_get(fmu_data *data, uint32_t reference, double *value) {
    if (reference == FMU_TIME) {
        *value = data->time;
    } else if (reference < FMU_FIRST_ACTION) {
        *value = (double)data->obs[reference - FMU_FIRST_OBS];
    } else if (reference < FMU_STATUS) {
        fmu_outputs(data);
        *value = (double)data->action[reference - FMU_FIRST_ACTION];
    } else {
        return 0;
    }
    return 1;
}

static int fmu_set(fmu_data *data, uint32_t reference, double value) {
    if (reference < FMU_FIRST_OBS || reference >= FMU_FIRST_ACTION) {
        return 0;
    }
    data->obs[reference - FMU_FIRST_OBS] = (float)value;
    data->changed = 1;
    return 1;
}

#endif
