// An Arduino sketch around the controller: put controller.c and controller.h beside it.
// Text to start from; fill in how your sensors are read and your actuators driven.

#include "controller.h"

static fq_controller state;
static const unsigned long SAMPLE = ${micros}UL;  // microseconds
static unsigned long next;

void setup() {
  Serial.begin(115200);
  if (fq_self_test(&state) != 0) {
    Serial.println("the controller is not what it was");
    for (;;) {
    }
  }
  fq_init(&state);
  next = micros();
}

void loop() {
  float observation[FQ_OBSERVATIONS] = {0};
  float action[FQ_ACTIONS];
  while ((long)(micros() - next) < 0) {
  }
  next += SAMPLE;
$read
  const int status = fq_step(&state, observation, action);
  if (status != FQ_OK && status != FQ_LIMITED) {
    Serial.println(status);  // the fallback acts
  }
$write
}
