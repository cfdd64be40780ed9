/* timer ROWS [floor|operations]: the microseconds of each step, line by line, over the observations in the file ROWS; or
   of the floor, which reads FQ_WEIGHTS numbers once and multiplies each; or of so many multiplications and additions
   of numbers that are in registers already. */
#define _POSIX_C_SOURCE 199309L

#include "controller.h"

#include <stdio.h>
#include <time.h>

static float weights[FQ_WEIGHTS + 32];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return 1e6 * (double)t.tv_sec + 1e-3 * (double)t.tv_nsec;
}

static float floor_of(float x)
{
    float sums[32] = {0}, all = 0.0f;
    int i, k;
    for (i = 0; i < FQ_WEIGHTS; i += 32) {
        for (k = 0; k < 32; ++k) {
            sums[k] += weights[i + k] * x;
        }
    }
    for (k = 0; k < 32; ++k) {
        all += sums[k];
    }
    return all;
}

static float operations_of(float x)
{
    float sums[64] = {0}, all = 0.0f;
    int i, k;
    for (i = 0; i < FQ_WEIGHTS; i += 64) {
        for (k = 0; k < 64; ++k) {
            sums[k] = sums[k] * x + x;
        }
    }
    for (k = 0; k < 64; ++k) {
        all += sums[k];
    }
    return all;
}

int main(int argc, char **argv)
{
    static fq_controller c;
    float obs[FQ_OBSERVATIONS], action[FQ_ACTIONS];
    volatile float kept = 0.0f, half = 0.5f;
    float (*volatile bound)(float) = argc > 2 && argv[2][0] == 'f' ? floor_of : operations_of; /* volatile: not inlined */
    FILE *rows = argc > 1 ? fopen(argv[1], "rb") : NULL;
    if (rows == NULL) {
        return 1;
    }
    fq_init(&c);
    while (fread(obs, sizeof obs, 1, rows) == 1) {
        const double begin = now();
        double end;
        if (argc > 2) {
            kept += bound(half);
        } else {
            fq_step(&c, obs, action);
            kept += action[0];
        }
        end = now();
        printf("%.3f\n", end - begin);
    }
    fclose(rows);
    return 0;
}
