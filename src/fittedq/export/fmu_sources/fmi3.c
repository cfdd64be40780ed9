/* The controller through the functions of FMI 3.0 for co-simulation.
 * Source: Functional Mock-up Interface 3.0.2, sections 2.2 and 4.2.
 */
#include <stdbool.h>

#include "instance.h"

typedef void *fmi3Instance, *fmi3InstanceEnvironment, *fmi3FMUState;
typedef uint32_t fmi3ValueReference;
typedef bool fmi3Boolean, fmi3Clock;
typedef const char *fmi3String;
typedef uint8_t fmi3Byte;
typedef const fmi3Byte *fmi3Binary;
typedef enum { fmi3OK, fmi3Warning, fmi3Discard, fmi3Error, fmi3Fatal } fmi3Status;
typedef int fmi3IntervalQualifier, fmi3DependencyKind;
typedef void (*fmi3LogMessage)(fmi3InstanceEnvironment, fmi3Status, fmi3String, fmi3String);

typedef struct {
    fmu_data data;
    fmu_mode mode;
    fmi3LogMessage log;
    fmi3InstanceEnvironment environment;
} instance;

static fmi3Status failed(const instance *self, fmi3String message) {
    if (self->log != NULL) {
        self->log(self->environment, fmi3Error, "logStatusError", message);
    }
    return fmi3Error;
}

/* ------------------------------------------------------------------ the life of an instance */

FMU_EXPORT const char *fmi3GetVersion(void) { return "3.0"; }

FMU_EXPORT fmi3Status fmi3SetDebugLogging(fmi3Instance c, fmi3Boolean on, size_t count, const fmi3String categories[]) {
    (void)c, (void)on, (void)count, (void)categories;
    return fmi3OK;
}

FMU_EXPORT fmi3Instance fmi3InstantiateCoSimulation(
    fmi3String name, fmi3String token, fmi3String resources, fmi3Boolean visible, fmi3Boolean logging, fmi3Boolean events,
    fmi3Boolean early, const fmi3ValueReference intermediate[], size_t intermediates, fmi3InstanceEnvironment environment,
    fmi3LogMessage log, void (*update)(void)) {
    instance *self;
    (void)name, (void)resources, (void)visible, (void)logging, (void)early, (void)intermediate, (void)update;
    if (events || intermediates > 0 || token == NULL || strcmp(token, FMU_TOKEN) != 0) {
        return NULL;
    }
    self = (instance *)calloc(1, sizeof *self);
    if (self != NULL) {
        self->log = log;
        self->environment = environment;
        fmu_begin(&self->data);
    }
    return self;
}

FMU_EXPORT fmi3Instance fmi3InstantiateModelExchange(fmi3String name, fmi3String token, fmi3String resources,
                                                     fmi3Boolean visible, fmi3Boolean logging,
                                                     fmi3InstanceEnvironment environment, fmi3LogMessage log) {
    (void)name, (void)token, (void)resources, (void)visible, (void)logging, (void)environment, (void)log;
    return NULL;
}

FMU_EXPORT fmi3Instance fmi3InstantiateScheduledExecution(fmi3String name, fmi3String token, fmi3String resources,
                                                          fmi3Boolean visible, fmi3Boolean logging,
                                                          fmi3InstanceEnvironment environment, fmi3LogMessage log,
                                                          void (*clock)(void), void (*lock)(void), void (*unlock)(void)) {
    (void)name, (void)token, (void)resources, (void)visible, (void)logging, (void)environment, (void)log;
    (void)clock, (void)lock, (void)unlock;
    return NULL;
}

FMU_EXPORT void fmi3FreeInstance(fmi3Instance c) { free(c); }

FMU_EXPORT fmi3Status fmi3EnterInitializationMode(fmi3Instance c, fmi3Boolean with_tolerance, double tolerance, double start,
                                                  fmi3Boolean with_stop, double stop) {
    (void)with_tolerance, (void)tolerance, (void)with_stop, (void)stop;
    ((instance *)c)->data.time = start;
    ((instance *)c)->mode = FMU_INITIALIZING;
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3ExitInitializationMode(fmi3Instance c) {
    ((instance *)c)->mode = FMU_STEPPING;
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3EnterStepMode(fmi3Instance c) {
    ((instance *)c)->mode = FMU_STEPPING;
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3Terminate(fmi3Instance c) {
    ((instance *)c)->mode = FMU_OVER;
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3Reset(fmi3Instance c) {
    fmu_begin(&((instance *)c)->data);
    ((instance *)c)->mode = FMU_NEW;
    return fmi3OK;
}

/* ------------------------------------------------------------------ variables */

FMU_EXPORT fmi3Status fmi3GetFloat64(fmi3Instance c, const fmi3ValueReference at[], size_t count, double value[],
                                     size_t values) {
    size_t i;
    for (i = 0; i < count && i < values; i++) {
        if (!fmu_get(&((instance *)c)->data, at[i], &value[i])) {
            return failed((instance *)c, "there is no Float64 variable of this value reference");
        }
    }
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3SetFloat64(fmi3Instance c, const fmi3ValueReference at[], size_t count, const double value[],
                                     size_t values) {
    size_t i;
    for (i = 0; i < count && i < values; i++) {
        if (!fmu_set(&((instance *)c)->data, at[i], value[i])) {
            return failed((instance *)c, "there is no Float64 input of this value reference");
        }
    }
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3GetInt32(fmi3Instance c, const fmi3ValueReference at[], size_t count, int32_t value[],
                                   size_t values) {
    instance *self = (instance *)c;
    size_t i;
    fmu_outputs(&self->data);
    for (i = 0; i < count && i < values; i++) {
        if (at[i] != FMU_STATUS) {
            return failed(self, "there is no Int32 variable of this value reference");
        }
        value[i] = self->data.status;
    }
    return fmi3OK;
}

/* There are no other variables: no list of them can hold one. */
static fmi3Status none(fmi3Instance c, size_t count) {
    return count == 0 ? fmi3OK : failed((instance *)c, "there is no variable of this kind to be read or written");
}

#define FMU_NO_GETTER(kind, type)                                                                                       \
    FMU_EXPORT fmi3Status fmi3Get##kind(fmi3Instance c, const fmi3ValueReference at[], size_t count, type value[],      \
                                        size_t values) {                                                                \
        (void)at, (void)value, (void)values;                                                                            \
        return none(c, count);                                                                                          \
    }
#define FMU_NO_SETTER(kind, type)                                                                                       \
    FMU_EXPORT fmi3Status fmi3Set##kind(fmi3Instance c, const fmi3ValueReference at[], size_t count, const type value[], \
                                        size_t values) {                                                                \
        (void)at, (void)value, (void)values;                                                                            \
        return none(c, count);                                                                                          \
    }
FMU_NO_SETTER(Int32, int32_t)
#define FMU_NO_VARIABLES(kind, type) FMU_NO_GETTER(kind, type) FMU_NO_SETTER(kind, type)
FMU_NO_VARIABLES(Float32, float)
FMU_NO_VARIABLES(Int8, int8_t)
FMU_NO_VARIABLES(UInt8, uint8_t)
FMU_NO_VARIABLES(Int16, int16_t)
FMU_NO_VARIABLES(UInt16, uint16_t)
FMU_NO_VARIABLES(UInt32, uint32_t)
FMU_NO_VARIABLES(Int64, int64_t)
FMU_NO_VARIABLES(UInt64, uint64_t)
FMU_NO_VARIABLES(Boolean, fmi3Boolean)
FMU_NO_VARIABLES(String, fmi3String)

FMU_EXPORT fmi3Status fmi3GetBinary(fmi3Instance c, const fmi3ValueReference at[], size_t count, size_t sizes[],
                                    fmi3Binary value[], size_t values) {
    (void)at, (void)sizes, (void)value, (void)values;
    return none(c, count);
}

FMU_EXPORT fmi3Status fmi3SetBinary(fmi3Instance c, const fmi3ValueReference at[], size_t count, const size_t sizes[],
                                    const fmi3Binary value[], size_t values) {
    (void)at, (void)sizes, (void)value, (void)values;
    return none(c, count);
}

FMU_EXPORT fmi3Status fmi3GetClock(fmi3Instance c, const fmi3ValueReference at[], size_t count, fmi3Clock value[]) {
    (void)at, (void)value;
    return none(c, count);
}

FMU_EXPORT fmi3Status fmi3SetClock(fmi3Instance c, const fmi3ValueReference at[], size_t count, const fmi3Clock value[]) {
    (void)at, (void)value;
    return none(c, count);
}

/* ------------------------------------------------------------------ snapshots */

FMU_EXPORT fmi3Status fmi3GetFMUState(fmi3Instance c, fmi3FMUState *state) {
    if (*state == NULL && (*state = malloc(sizeof(fmu_data))) == NULL) {
        return failed((instance *)c, "there is no memory for a snapshot");
    }
    memcpy(*state, &((instance *)c)->data, sizeof(fmu_data));
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3SetFMUState(fmi3Instance c, fmi3FMUState state) {
    memcpy(&((instance *)c)->data, state, sizeof(fmu_data));
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3FreeFMUState(fmi3Instance c, fmi3FMUState *state) {
    (void)c;
    free(*state);
    *state = NULL;
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3SerializedFMUStateSize(fmi3Instance c, fmi3FMUState state, size_t *size) {
    (void)c, (void)state;
    *size = sizeof(fmu_data);
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3SerializeFMUState(fmi3Instance c, fmi3FMUState state, fmi3Byte bytes[], size_t size) {
    if (size < sizeof(fmu_data)) {
        return failed((instance *)c, "the array is too small for a snapshot");
    }
    memcpy(bytes, state, sizeof(fmu_data));
    return fmi3OK;
}

FMU_EXPORT fmi3Status fmi3DeserializeFMUState(fmi3Instance c, const fmi3Byte bytes[], size_t size, fmi3FMUState *state) {
    if (size != sizeof(fmu_data) || (*state == NULL && (*state = malloc(sizeof(fmu_data))) == NULL)) {
        return failed((instance *)c, "these bytes are no snapshot, or there is no memory for one");
    }
    memcpy(*state, bytes, sizeof(fmu_data));
    return fmi3OK;
}

/* ------------------------------------------------------------------ steps */

FMU_EXPORT fmi3Status fmi3DoStep(fmi3Instance c, double time, double step, fmi3Boolean final, fmi3Boolean *event,
                                 fmi3Boolean *over, fmi3Boolean *early, double *reached) {
    instance *self = (instance *)c;
    long samples = fmu_samples(step);
    (void)final;
    *event = *over = *early = false;
    *reached = self->data.time;
    if (self->mode != FMU_STEPPING) {
        return failed(self, "a step was asked for before the initialization ended, or after the end");
    }
    if (samples == 0) {
        return failed(self, "the communication step is no multiple of the controller's sample time");
    }
    fmu_advance(&self->data, samples, time + step);
    *reached = self->data.time;
    return fmi3OK;
}

/* ------------------------------------------------------------------ what the controller does not have */

#define FMU_ABSENT(name, parameters, unused)                                      \
    FMU_EXPORT fmi3Status name parameters {                                       \
        unused;                                                                   \
        return failed((instance *)c, "the controller has nothing of this kind");  \
    }

FMU_ABSENT(fmi3EnterConfigurationMode, (fmi3Instance c), (void)0)
FMU_ABSENT(fmi3ExitConfigurationMode, (fmi3Instance c), (void)0)
FMU_ABSENT(fmi3EnterEventMode, (fmi3Instance c), (void)0)
FMU_ABSENT(fmi3EvaluateDiscreteStates, (fmi3Instance c), (void)0)
FMU_ABSENT(fmi3UpdateDiscreteStates,
           (fmi3Instance c, fmi3Boolean *again, fmi3Boolean *over, fmi3Boolean *nominals, fmi3Boolean *values,
            fmi3Boolean *next, double *time),
           ((void)again, (void)over, (void)nominals, (void)values, (void)next, (void)time))
FMU_ABSENT(fmi3GetOutputDerivatives,
           (fmi3Instance c, const fmi3ValueReference at[], size_t count, const int32_t order[], double value[], size_t values),
           ((void)at, (void)count, (void)order, (void)value, (void)values))
FMU_ABSENT(fmi3GetNumberOfVariableDependencies, (fmi3Instance c, fmi3ValueReference at, size_t *count),
           ((void)at, (void)count))
FMU_ABSENT(fmi3GetVariableDependencies,
           (fmi3Instance c, fmi3ValueReference at, size_t element[], fmi3ValueReference on[], size_t on_element[],
            fmi3DependencyKind kind[], size_t count),
           ((void)at, (void)element, (void)on, (void)on_element, (void)kind, (void)count))

#define FMU_NO_DERIVATIVE(name)                                                                                         \
    FMU_ABSENT(name,                                                                                                    \
               (fmi3Instance c, const fmi3ValueReference unknown[], size_t unknowns, const fmi3ValueReference known[],   \
                size_t knowns, const double seed[], size_t seeds, double value[], size_t values),                       \
               ((void)unknown, (void)unknowns, (void)known, (void)knowns, (void)seed, (void)seeds, (void)value,          \
                (void)values))
FMU_NO_DERIVATIVE(fmi3GetDirectionalDerivative)
FMU_NO_DERIVATIVE(fmi3GetAdjointDerivative)

#define FMU_NO_CLOCK(name, first, second)                                                                               \
    FMU_ABSENT(name, (fmi3Instance c, const fmi3ValueReference at[], size_t count, first one, second two),              \
               ((void)at, (void)count, (void)one, (void)two))
FMU_NO_CLOCK(fmi3GetIntervalDecimal, double *, fmi3IntervalQualifier *)
FMU_NO_CLOCK(fmi3GetShiftFraction, uint64_t *, uint64_t *)
FMU_NO_CLOCK(fmi3SetIntervalFraction, const uint64_t *, const uint64_t *)
FMU_NO_CLOCK(fmi3SetShiftFraction, const uint64_t *, const uint64_t *)
FMU_ABSENT(fmi3GetIntervalFraction,
           (fmi3Instance c, const fmi3ValueReference at[], size_t count, uint64_t counter[], uint64_t resolution[],
            fmi3IntervalQualifier qualifier[]),
           ((void)at, (void)count, (void)counter, (void)resolution, (void)qualifier))
FMU_ABSENT(fmi3GetShiftDecimal, (fmi3Instance c, const fmi3ValueReference at[], size_t count, double shift[]),
           ((void)at, (void)count, (void)shift))
FMU_ABSENT(fmi3SetIntervalDecimal, (fmi3Instance c, const fmi3ValueReference at[], size_t count, const double interval[]),
           ((void)at, (void)count, (void)interval))
FMU_ABSENT(fmi3SetShiftDecimal, (fmi3Instance c, const fmi3ValueReference at[], size_t count, const double shift[]),
           ((void)at, (void)count, (void)shift))

/* Of model exchange and of scheduled execution: simulators look them up, whatever an FMU is. */
FMU_ABSENT(fmi3ActivateModelPartition, (fmi3Instance c, fmi3ValueReference clock, double time), ((void)clock, (void)time))
FMU_ABSENT(fmi3EnterContinuousTimeMode, (fmi3Instance c), (void)0)
FMU_ABSENT(fmi3SetTime, (fmi3Instance c, double time), (void)time)
FMU_ABSENT(fmi3CompletedIntegratorStep, (fmi3Instance c, fmi3Boolean final, fmi3Boolean *event, fmi3Boolean *over),
           ((void)final, (void)event, (void)over))
FMU_ABSENT(fmi3GetNumberOfContinuousStates, (fmi3Instance c, size_t *count), (void)count)
FMU_ABSENT(fmi3GetNumberOfEventIndicators, (fmi3Instance c, size_t *count), (void)count)
FMU_ABSENT(fmi3SetContinuousStates, (fmi3Instance c, const double value[], size_t count), ((void)value, (void)count))

#define FMU_NO_STATES(name) FMU_ABSENT(name, (fmi3Instance c, double value[], size_t count), ((void)value, (void)count))
FMU_NO_STATES(fmi3GetContinuousStates)
FMU_NO_STATES(fmi3GetContinuousStateDerivatives)
FMU_NO_STATES(fmi3GetNominalsOfContinuousStates)
FMU_NO_STATES(fmi3GetEventIndicators)
