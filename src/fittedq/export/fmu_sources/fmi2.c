/* The controller through the functions of FMI 2.0 for co-simulation.
 * Source: Functional Mock-up Interface 2.0.4, sections 2.1 and 4.2.
 */
#include "instance.h"

typedef void *fmi2Component, *fmi2ComponentEnvironment, *fmi2FMUstate;
typedef unsigned int fmi2ValueReference;
typedef double fmi2Real;
typedef int fmi2Integer, fmi2Boolean;
typedef char fmi2Char, fmi2Byte;
typedef const fmi2Char *fmi2String;
typedef enum { fmi2OK, fmi2Warning, fmi2Discard, fmi2Error, fmi2Fatal, fmi2Pending } fmi2Status;
typedef enum { fmi2ModelExchange, fmi2CoSimulation } fmi2Type;
typedef enum { fmi2DoStepStatus, fmi2PendingStatus, fmi2LastSuccessfulTime, fmi2Terminated } fmi2StatusKind;
typedef struct {
    void (*logger)(fmi2ComponentEnvironment, fmi2String, fmi2Status, fmi2String, fmi2String, ...);
    void *(*allocateMemory)(size_t, size_t);
    void (*freeMemory)(void *);
    void (*stepFinished)(fmi2ComponentEnvironment, fmi2Status);
    fmi2ComponentEnvironment componentEnvironment;
} fmi2CallbackFunctions;

typedef struct {
    fmu_data data;
    fmu_mode mode;
    fmi2CallbackFunctions callbacks;
    fmi2Char name[128];
} instance;

static fmi2Status failed(const instance *self, fmi2String message) {
    if (self->callbacks.logger != NULL) {
        self->callbacks.logger(self->callbacks.componentEnvironment, self->name, fmi2Error, "logStatusError", "%s", message);
    }
    return fmi2Error;
}

/* ------------------------------------------------------------------ the life of an instance */

FMU_EXPORT const char *fmi2GetTypesPlatform(void) { return "default"; }
FMU_EXPORT const char *fmi2GetVersion(void) { return "2.0"; }

FMU_EXPORT fmi2Status fmi2SetDebugLogging(fmi2Component c, fmi2Boolean on, size_t count, const fmi2String categories[]) {
    (void)c, (void)on, (void)count, (void)categories;
    return fmi2OK;
}

FMU_EXPORT fmi2Component fmi2Instantiate(fmi2String name, fmi2Type type, fmi2String token, fmi2String resources,
                                         const fmi2CallbackFunctions *callbacks, fmi2Boolean visible, fmi2Boolean logging) {
    instance *self;
    (void)resources, (void)visible, (void)logging;
    if (type != fmi2CoSimulation || token == NULL || strcmp(token, FMU_TOKEN) != 0) {
        return NULL;
    }
    self = (instance *)calloc(1, sizeof *self);
    if (self != NULL) {
        if (callbacks != NULL) {
            self->callbacks = *callbacks;
        }
        strncpy(self->name, name == NULL ? FMU_IDENTIFIER : name, sizeof self->name - 1);
        fmu_begin(&self->data);
    }
    return self;
}

FMU_EXPORT void fmi2FreeInstance(fmi2Component c) { free(c); }

FMU_EXPORT fmi2Status fmi2SetupExperiment(fmi2Component c, fmi2Boolean with_tolerance, fmi2Real tolerance, fmi2Real start,
                                          fmi2Boolean with_stop, fmi2Real stop) {
    (void)with_tolerance, (void)tolerance, (void)with_stop, (void)stop;
    ((instance *)c)->data.time = start;
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2EnterInitializationMode(fmi2Component c) {
    ((instance *)c)->mode = FMU_INITIALIZING;
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2ExitInitializationMode(fmi2Component c) {
    ((instance *)c)->mode = FMU_STEPPING;
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2Terminate(fmi2Component c) {
    ((instance *)c)->mode = FMU_OVER;
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2Reset(fmi2Component c) {
    fmu_begin(&((instance *)c)->data);
    ((instance *)c)->mode = FMU_NEW;
    return fmi2OK;
}

/* ------------------------------------------------------------------ variables */

FMU_EXPORT fmi2Status fmi2GetReal(fmi2Component c, const fmi2ValueReference at[], size_t count, fmi2Real value[]) {
    size_t i;
    for (i = 0; i < count; i++) {
        if (!fmu_get(&((instance *)c)->data, at[i], &value[i])) {
            return failed((instance *)c, "there is no real variable of this value reference");
        }
    }
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2SetReal(fmi2Component c, const fmi2ValueReference at[], size_t count, const fmi2Real value[]) {
    size_t i;
    for (i = 0; i < count; i++) {
        if (!fmu_set(&((instance *)c)->data, at[i], value[i])) {
            return failed((instance *)c, "there is no real input of this value reference");
        }
    }
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2GetInteger(fmi2Component c, const fmi2ValueReference at[], size_t count, fmi2Integer value[]) {
    instance *self = (instance *)c;
    size_t i;
    fmu_outputs(&self->data);
    for (i = 0; i < count; i++) {
        if (at[i] != FMU_STATUS) {
            return failed(self, "there is no integer variable of this value reference");
        }
        value[i] = self->data.status;
    }
    return fmi2OK;
}

/* There are no other variables: no list of them can hold one. */
static fmi2Status none(fmi2Component c, size_t count) {
    return count == 0 ? fmi2OK : failed((instance *)c, "there is no variable of this kind to be read or written");
}

FMU_EXPORT fmi2Status fmi2SetInteger(fmi2Component c, const fmi2ValueReference at[], size_t count, const fmi2Integer value[]) {
    (void)at, (void)value;
    return none(c, count);
}

FMU_EXPORT fmi2Status fmi2GetBoolean(fmi2Component c, const fmi2ValueReference at[], size_t count, fmi2Boolean value[]) {
    (void)at, (void)value;
    return none(c, count);
}

FMU_EXPORT fmi2Status fmi2SetBoolean(fmi2Component c, const fmi2ValueReference at[], size_t count, const fmi2Boolean value[]) {
    (void)at, (void)value;
    return none(c, count);
}

FMU_EXPORT fmi2Status fmi2GetString(fmi2Component c, const fmi2ValueReference at[], size_t count, fmi2String value[]) {
    (void)at, (void)value;
    return none(c, count);
}

FMU_EXPORT fmi2Status fmi2SetString(fmi2Component c, const fmi2ValueReference at[], size_t count, const fmi2String value[]) {
    (void)at, (void)value;
    return none(c, count);
}

/* ------------------------------------------------------------------ snapshots */

FMU_EXPORT fmi2Status fmi2GetFMUstate(fmi2Component c, fmi2FMUstate *state) {
    if (*state == NULL && (*state = malloc(sizeof(fmu_data))) == NULL) {
        return failed((instance *)c, "there is no memory for a snapshot");
    }
    memcpy(*state, &((instance *)c)->data, sizeof(fmu_data));
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2SetFMUstate(fmi2Component c, fmi2FMUstate state) {
    memcpy(&((instance *)c)->data, state, sizeof(fmu_data));
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2FreeFMUstate(fmi2Component c, fmi2FMUstate *state) {
    (void)c;
    free(*state);
    *state = NULL;
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2SerializedFMUstateSize(fmi2Component c, fmi2FMUstate state, size_t *size) {
    (void)c, (void)state;
    *size = sizeof(fmu_data);
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2SerializeFMUstate(fmi2Component c, fmi2FMUstate state, fmi2Byte bytes[], size_t size) {
    if (size < sizeof(fmu_data)) {
        return failed((instance *)c, "the array is too small for a snapshot");
    }
    memcpy(bytes, state, sizeof(fmu_data));
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2DeSerializeFMUstate(fmi2Component c, const fmi2Byte bytes[], size_t size, fmi2FMUstate *state) {
    if (size != sizeof(fmu_data) || (*state == NULL && (*state = malloc(sizeof(fmu_data))) == NULL)) {
        return failed((instance *)c, "these bytes are no snapshot, or there is no memory for one");
    }
    memcpy(*state, bytes, sizeof(fmu_data));
    return fmi2OK;
}

/* ------------------------------------------------------------------ steps */

FMU_EXPORT fmi2Status fmi2DoStep(fmi2Component c, fmi2Real time, fmi2Real step, fmi2Boolean final) {
    instance *self = (instance *)c;
    long samples = fmu_samples(step);
    (void)final;
    if (self->mode != FMU_STEPPING) {
        return failed(self, "a step was asked for before the initialization ended, or after the end");
    }
    if (samples == 0) {
        return failed(self, "the communication step is no multiple of the controller's sample time");
    }
    fmu_advance(&self->data, samples, time + step);
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2CancelStep(fmi2Component c) { return failed((instance *)c, "no step is pending"); }

FMU_EXPORT fmi2Status fmi2GetStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Status *value) {
    (void)c, (void)kind, (void)value;
    return fmi2Discard;
}

FMU_EXPORT fmi2Status fmi2GetRealStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Real *value) {
    if (kind != fmi2LastSuccessfulTime) {
        return fmi2Discard;
    }
    *value = ((instance *)c)->data.time;
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2GetIntegerStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Integer *value) {
    (void)c, (void)kind, (void)value;
    return fmi2Discard;
}

FMU_EXPORT fmi2Status fmi2GetBooleanStatus(fmi2Component c, const fmi2StatusKind kind, fmi2Boolean *value) {
    if (kind != fmi2Terminated) {
        return fmi2Discard;
    }
    *value = ((instance *)c)->mode == FMU_OVER;
    return fmi2OK;
}

FMU_EXPORT fmi2Status fmi2GetStringStatus(fmi2Component c, const fmi2StatusKind kind, fmi2String *value) {
    (void)c, (void)kind, (void)value;
    return fmi2Discard;
}

FMU_EXPORT fmi2Status fmi2GetDirectionalDerivative(fmi2Component c, const fmi2ValueReference unknown[], size_t unknowns,
                                                   const fmi2ValueReference known[], size_t knowns, const fmi2Real seed[],
                                                   fmi2Real value[]) {
    (void)unknown, (void)unknowns, (void)known, (void)knowns, (void)seed, (void)value;
    return failed((instance *)c, "the controller gives no derivatives");
}

FMU_EXPORT fmi2Status fmi2SetRealInputDerivatives(fmi2Component c, const fmi2ValueReference at[], size_t count,
                                                  const fmi2Integer order[], const fmi2Real value[]) {
    (void)at, (void)order, (void)value;
    return none(c, count);
}

FMU_EXPORT fmi2Status fmi2GetRealOutputDerivatives(fmi2Component c, const fmi2ValueReference at[], size_t count,
                                                   const fmi2Integer order[], fmi2Real value[]) {
    (void)at, (void)order, (void)value;
    return none(c, count);
}
