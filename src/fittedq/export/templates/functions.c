/* The formulas of controllers in C99. Each piece begins with a line "@ its name: the pieces that it needs"; those that a
   controller needs are copied into its controller.c, in this order. None allocates, recurses or loops without a bound. */

/*@ finite: */
/* Whether n numbers are neither NaN nor infinite; told by their bits, so that no compiler's option undoes it. */
static int fq_finite(const float *x, int n)
{
    int i, finite = 1;
    for (i = 0; i < n; ++i) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        if ((bits & 0x7f800000u) == 0x7f800000u) {
            finite = 0;
        }
    }
    return finite;
}

/*@ finite_wide: */
static int fq_finite_wide(const double *x, int n)
{
    int i, finite = 1;
    for (i = 0; i < n; ++i) {
        uint64_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        if ((bits >> 52 & 0x7ffu) == 0x7ffu) {
            finite = 0;
        }
    }
    return finite;
}

/*@ clamp: */
static float fq_clamp(float x, float low, float high)
{
    return x < low ? low : (x > high ? high : x);
}

/*@ wide_libm: */
#ifdef FQ_NO_LIBM
#error "this controller solves in double precision, with the functions of libm; leave FQ_NO_LIBM out"
#endif

/*@ sqrt: */
#ifdef FQ_NO_LIBM
/* A guess from the bits, then three of Newton's steps: relative error below 2e-7. */
static float fq_sqrt(float x)
{
    uint32_t bits;
    float y;
    memcpy(&bits, &x, sizeof bits);
    bits = (bits >> 1) + 0x1fbd1df5u;
    memcpy(&y, &bits, sizeof y);
    y = 0.5f * (y + x / y);
    y = 0.5f * (y + x / y);
    return 0.5f * (y + x / y);
}
#else
#define fq_sqrt sqrtf
#endif

/*@ exp: */
#ifdef FQ_NO_LIBM
/* 2^n for -126 <= n <= 127. */
static float fq_power(int n)
{
    const uint32_t bits = (uint32_t)(n + 127) << 23;
    float power;
    memcpy(&power, &bits, sizeof power);
    return power;
}

/* exp(x) = 2^n exp(r), |r| <= log(2)/2 (the polynomial of Cephes): relative error below 2e-7. */
static float fq_exp(float x)
{
    float r;
    int n;
    if (!(x > -87.0f)) {
        return x < 0.0f ? 0.0f : x;
    }
    if (x > 88.7f) {
        return fq_power(127) * 4.0f;
    }
    n = (int)(1.44269504f * x + (x < 0.0f ? -0.5f : 0.5f));
    r = (x - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    r = (((((1.9875691500e-4f * r + 1.3981999507e-3f) * r + 8.3334519073e-3f) * r + 4.1665795894e-2f) * r
          + 1.6666665459e-1f) * r + 5.0000001201e-1f) * r * r + r + 1.0f;
    return r * fq_power(n / 2) * fq_power(n - n / 2);
}
#else
#define fq_exp expf
#endif

/*@ tanh: exp */
#ifdef FQ_NO_LIBM
/* A polynomial (Cephes) near 0, then 1 - 2 / (exp(2 |x|) + 1): error below 3e-7. */
static float fq_tanh(float x)
{
    const float size = x < 0.0f ? -x : x;
    float y;
    if (size < 0.625f) {
        y = x * x;
        return ((((-5.70498872745e-3f * y + 2.06390887954e-2f) * y - 5.37397155531e-2f) * y + 1.33314422036e-1f) * y
                - 3.33332819422e-1f) * y * x + x;
    }
    if (!(size < 10.0f)) {
        return size >= 10.0f ? (x < 0.0f ? -1.0f : 1.0f) : x;
    }
    y = 1.0f - 2.0f / (fq_exp(2.0f * size) + 1.0f);
    return x < 0.0f ? -y : y;
}
#else
#define fq_tanh tanhf
#endif

/*@ expm1: exp */
#ifdef FQ_NO_LIBM
/* Taylor's polynomial near 0, else exp(x) - 1: error below 2e-7. */
static float fq_expm1(float x)
{
    if (x > -0.5f && x < 0.5f) {
        return x * (1.0f + x * (1.0f / 2 + x * (1.0f / 6 + x * (1.0f / 24 + x * (1.0f / 120 + x * (1.0f / 720 + x / 5040))))));
    }
    return fq_exp(x) - 1.0f;
}
#else
#define fq_expm1 expm1f
#endif

/*@ log1p: */
#ifdef FQ_NO_LIBM
/* log(1 + t) = 2 artanh(t / (2 + t)) for 0 <= t <= 1: error below 2e-7. */
static float fq_log1p(float t)
{
    const float s = t / (2.0f + t), q = s * s;
    return 2.0f * s * (1.0f + q * (1.0f / 3 + q * (1.0f / 5 + q * (1.0f / 7 + q * (1.0f / 9 + q * (1.0f / 11 + q / 13))))));
}
#else
#define fq_log1p log1pf
#endif

/*@ normalize: clamp */
/* y = clip((x - mean) scale, -limit, limit) */
static void fq_normalize(const float *mean, const float *scale, const float *limit, int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = fq_clamp((x[i] - mean[i]) * scale[i], -limit[i], limit[i]);
    }
}

/*@ narrow_layer: */
/* y = x W + b, W column by column. FQ_LANES sums of products go side by side and are added up in pairs: any compiler may
   use vectors, and no product waits for the one before it. */
static void fq_narrow_layer(
    const float *FQ_RESTRICT w, const float *FQ_RESTRICT b, int in, int out, const float *FQ_RESTRICT x,
    float *FQ_RESTRICT y)
{
    const int whole = in - in % FQ_LANES;
    int half, i, j, k;
    for (k = 0; k < out; ++k) {
        float sum[FQ_LANES] = {0}, rest = b[k];
        for (i = 0; i < whole; i += FQ_LANES) {
            for (j = 0; j < FQ_LANES; ++j) {
                sum[j] += w[i + j] * x[i + j];
            }
        }
        for (half = FQ_LANES / 2; half > 0; half /= 2) {
            for (j = 0; j < half; ++j) {
                sum[j] += sum[j + half];
            }
        }
        for (i = whole; i < in; ++i) {
            rest += w[i] * x[i];
        }
        y[k] = sum[0] + rest;
        w += in;
    }
}

/*@ layer: narrow_layer */
/* y = x W + b. W stands in blocks of FQ_BLOCK columns, each of them row by row; the columns that are left follow, column
   by column. The sums of a block stay in registers, and no sum is taken apart: any compiler may use vectors. */
static void fq_layer(
    const float *FQ_RESTRICT w, const float *FQ_RESTRICT b, int in, int out, const float *FQ_RESTRICT x,
    float *FQ_RESTRICT y)
{
    int first, k;
    for (first = 0; first + FQ_BLOCK <= out; first += FQ_BLOCK) {
        float sum[FQ_BLOCK];
        for (k = 0; k < FQ_BLOCK; ++k) {
            sum[k] = b[first + k];
        }
        /* A loop over x by its place would be unrolled by some compilers, whose sums then leave the registers. */
        const float *const end = w + in * FQ_BLOCK;
        const float *each = x;
        while (w != end) {
            const float xi = *each++;
            for (k = 0; k < FQ_BLOCK; ++k) {
                sum[k] += w[k] * xi;
            }
            w += FQ_BLOCK;
        }
        for (k = 0; k < FQ_BLOCK; ++k) {
            y[first + k] = sum[k];
        }
    }
    if (first < out) {
        fq_narrow_layer(w, b + first, in, out - first, x, y + first);
    }
}

/*@ layer8: finite */
/* y = x W + b of whole numbers: weights of 8 bits with a scale for each column, x in 16 bits with one scale, sums in 32
   bits, which `most`, the greatest |x| in 16 bits, keeps from overflowing. Blocks as in W of floats. */
static void fq_layer8(
    const int8_t *FQ_RESTRICT w, const float *FQ_RESTRICT scale, const float *FQ_RESTRICT b, float most, int in, int out,
    const float *FQ_RESTRICT x, int16_t *FQ_RESTRICT q, float *FQ_RESTRICT y)
{
    float largest = 0.0f, step;
    int first, i, k;
    for (i = 0; i < in; ++i) {
        const float size = x[i] < 0.0f ? -x[i] : x[i];
        largest = size > largest ? size : largest;
    }
    if (!fq_finite(x, in)) {
        for (k = 0; k < out; ++k) {
            y[k] = x[0] - x[0] + (largest - largest);
        }
        return;
    }
    step = largest > 1e-30f ? largest / most : 1.0f;
    for (i = 0; i < in; ++i) {
        const float v = x[i] / step;
        q[i] = (int16_t)(v < 0.0f ? v - 0.5f : v + 0.5f);
    }
    for (first = 0; first < out; first += FQ_BLOCK) {
        const int width = out - first < FQ_BLOCK ? out - first : FQ_BLOCK;
        int32_t sum[FQ_BLOCK] = {0};
        for (i = 0; i < in; ++i) {
            const int32_t qi = q[i];
            for (k = 0; k < width; ++k) {
                sum[k] += w[k] * qi;
            }
            w += width;
        }
        for (k = 0; k < width; ++k) {
            y[first + k] = b[first + k] + (float)sum[k] * (scale[first + k] * step);
        }
    }
}

/*@ relu: */
static void fq_relu(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = x[i] > 0.0f ? x[i] : 0.0f;
    }
}

/*@ leaky_relu: */
static void fq_leaky_relu(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = x[i] > 0.0f ? x[i] : 0.01f * x[i];
    }
}

/*@ tanhs: tanh */
static void fq_tanhs(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = fq_tanh(x[i]);
    }
}

/*@ silu: tanh */
static void fq_silu(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = x[i] * 0.5f * (1.0f + fq_tanh(0.5f * x[i]));
    }
}

/*@ gelu: tanh */
static void fq_gelu(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        const float inner = 0.7978845608028654f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        y[i] = 0.5f * x[i] * (1.0f + fq_tanh(inner));
    }
}

/*@ softplus: exp log1p */
static void fq_softplus(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        const float size = x[i] < 0.0f ? -x[i] : x[i];
        y[i] = (x[i] > 0.0f ? x[i] : 0.0f) + fq_log1p(fq_exp(-size));
    }
}

/*@ elu: expm1 */
static void fq_elu(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = x[i] > 0.0f ? x[i] : fq_expm1(x[i]);
    }
}

/*@ layer_norm: sqrt */
/* y = gain (x - mean) / sqrt(variance + 1e-5) + shift */
static void fq_layer_norm(const float *gain, const float *shift, int n, const float *x, float *y)
{
    float mean = 0.0f, square = 0.0f, root;
    int i;
    for (i = 0; i < n; ++i) {
        mean += x[i];
    }
    mean /= (float)n;
    for (i = 0; i < n; ++i) {
        square += (x[i] - mean) * (x[i] - mean);
    }
    root = fq_sqrt(square / (float)n + 1e-5f);
    for (i = 0; i < n; ++i) {
        y[i] = (x[i] - mean) / root * gain[i] + shift[i];
    }
}

/*@ unit_length: sqrt */
static void fq_unit_length(int n, const float *x, float *y)
{
    float square = 0.0f, root;
    int i;
    for (i = 0; i < n; ++i) {
        square += x[i] * x[i];
    }
    root = fq_sqrt(square + 1e-12f);
    for (i = 0; i < n; ++i) {
        y[i] = x[i] / root;
    }
}

/*@ average_norm: */
static void fq_average_norm(int n, const float *x, float *y)
{
    float sum = 0.0f;
    int i;
    for (i = 0; i < n; ++i) {
        sum += x[i] < 0.0f ? -x[i] : x[i];
    }
    sum /= (float)n;
    sum = sum < 1e-8f ? 1e-8f : sum;
    for (i = 0; i < n; ++i) {
        y[i] = x[i] / sum;
    }
}

/*@ copy: */
static void fq_copy(int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = x[i];
    }
}

/*@ blend: */
/* out = keep x + take y */
static void fq_blend(const float *keep, const float *take, int n, const float *x, const float *y, float *out)
{
    int i;
    for (i = 0; i < n; ++i) {
        out[i] = keep[i] * x[i] + take[i] * y[i];
    }
}

/*@ affine: */
/* From the unit box to units. */
static void fq_affine(const float *center, const float *half_width, int n, const float *u, float *a)
{
    int i;
    for (i = 0; i < n; ++i) {
        a[i] = center[i] + half_width[i] * u[i];
    }
}

/*@ clip: clamp */
static void fq_clip(const float *low, const float *high, int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = fq_clamp(x[i], low[i], high[i]);
    }
}

/*@ round_whole: clamp */
/* Whole numbers where `whole`, halves to the even one, then within low and high. */
static void fq_round_whole(
    const float *whole, const float *low, const float *high, int n, const float *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        float v = fq_clamp(x[i], low[i], high[i]);
        if (whole[i] > 0.0f && v > -8388608.0f && v < 8388608.0f) {
            const float near = (float)(int32_t)v, rest = v - near;
            v = near;
            if (rest > 0.5f || (rest == 0.5f && (int32_t)near % 2 != 0)) {
                v = near + 1.0f;
            } else if (rest < -0.5f || (rest == -0.5f && (int32_t)near % 2 != 0)) {
                v = near - 1.0f;
            }
        }
        y[i] = fq_clamp(v, low[i], high[i]);
    }
}

/*@ changes: clamp */
/* The least and the greatest change i of the action before, which z holds in the unit box. */
static float fq_changes(float end, float rate, float center, float half_width, float before)
{
    return fq_clamp(end - (center + half_width * before), -rate, rate);
}

/*@ stretch: changes clamp */
/* The unit box onto the changes that are admissible; `before` is where they stand in z. */
static void fq_stretch(
    const float *rate, const float *least, const float *most, const float *center, const float *half_width, int n,
    const float *u, const float *before, float *a)
{
    int i;
    for (i = 0; i < n; ++i) {
        const float low = fq_changes(least[i], rate[i], center[i], half_width[i], before[i]);
        const float high = fq_changes(most[i], rate[i], center[i], half_width[i], before[i]);
        a[i] = fq_clamp(low + 0.5f * (u[i] + 1.0f) * (high - low), low, high);
    }
}

/*@ held_by_changes: changes */
static int fq_held_by_changes(
    const float *rate, const float *least, const float *most, const float *center, const float *half_width,
    const float *near, int n, const float *a, const float *before)
{
    int i, held = 0;
    for (i = 0; i < n; ++i) {
        const float low = fq_changes(least[i], rate[i], center[i], half_width[i], before[i]);
        const float high = fq_changes(most[i], rate[i], center[i], half_width[i], before[i]);
        if (a[i] <= low + near[i] || a[i] >= high - near[i]) {
            held = 1;
        }
    }
    return held;
}

/*@ held_by_rows: */
static int fq_held_by_rows(const double *matrix, const double *bound, int rows, int n, const float *a)
{
    int r, i, held = 0;
    for (r = 0; r < rows; ++r) {
        double sum = 0.0;
        for (i = 0; i < n; ++i) {
            sum += matrix[r * n + i] * (double)a[i];
        }
        if (sum >= bound[r]) {
            held = 1;
        }
    }
    return held;
}

/*@ walls: */
static double fq_clamp_double(double x, double low, double high)
{
    return x < low ? low : (x > high ? high : x);
}

/* The solution x of A x = b, A symmetric and positive definite (Cholesky); both are overwritten. */
static void fq_solve(double *a, double *b)
{
    int i, j, k;
    for (j = 0; j < FQ_ROWS; ++j) {
        for (k = 0; k < j; ++k) {
            const double f = a[j * FQ_ROWS + k];
            a[j * FQ_ROWS + j] -= f * f * a[k * FQ_ROWS + k];
        }
        for (i = j + 1; i < FQ_ROWS; ++i) {
            for (k = 0; k < j; ++k) {
                a[i * FQ_ROWS + j] -= a[i * FQ_ROWS + k] * a[j * FQ_ROWS + k] * a[k * FQ_ROWS + k];
            }
            a[i * FQ_ROWS + j] /= a[j * FQ_ROWS + j];
        }
    }
    for (i = 0; i < FQ_ROWS; ++i) {
        for (k = 0; k < i; ++k) {
            b[i] -= a[i * FQ_ROWS + k] * b[k];
        }
    }
    for (i = FQ_ROWS - 1; i >= 0; --i) {
        b[i] /= a[i * FQ_ROWS + i];
        for (k = i + 1; k < FQ_ROWS; ++k) {
            b[i] -= a[k * FQ_ROWS + i] * b[k];
        }
    }
}

/* x = clip(point - force rows), excess = rows x - bound; gives max |force - max(force + excess, 0)|. */
static double fq_at(const fq_polytope *s, const double *point, const double *force, double *x, double *excess)
{
    double residual = 0.0;
    int r, i;
    for (i = 0; i < FQ_ACTIONS; ++i) {
        double sum = point[i];
        for (r = 0; r < FQ_ROWS; ++r) {
            sum -= force[r] * s->rows[r * FQ_ACTIONS + i];
        }
        x[i] = fq_clamp_double(sum, s->low[i], s->high[i]);
    }
    for (r = 0; r < FQ_ROWS; ++r) {
        double sum = -s->bound[r], moved, off;
        for (i = 0; i < FQ_ACTIONS; ++i) {
            sum += s->rows[r * FQ_ACTIONS + i] * x[i];
        }
        excess[r] = sum;
        moved = force[r] + sum > 0.0 ? force[r] + sum : 0.0;
        off = force[r] > moved ? force[r] - moved : moved - force[r];
        residual = off > residual ? off : residual;
    }
    return residual;
}

/* One of Newton's steps on the rows that bind. */
static void fq_newton(const fq_polytope *s, const double *point, double *force)
{
    double x[FQ_ACTIONS], excess[FQ_ROWS], base[FQ_ROWS], system[FQ_ROWS * FQ_ROWS], is_free[FQ_ACTIONS];
    int binding[FQ_ROWS], r, q, i;
    (void)fq_at(s, point, force, x, excess);
    for (r = 0; r < FQ_ROWS; ++r) {
        binding[r] = force[r] + excess[r] > 0.0;
        base[r] = binding[r] ? force[r] : 0.0;
    }
    (void)fq_at(s, point, base, x, excess);
    for (i = 0; i < FQ_ACTIONS; ++i) {
        is_free[i] = x[i] > s->low[i] && x[i] < s->high[i] ? 1.0 : 0.0;
    }
    for (r = 0; r < FQ_ROWS; ++r) {
        for (q = 0; q < FQ_ROWS; ++q) {
            double sum = 0.0;
            for (i = 0; i < FQ_ACTIONS; ++i) {
                sum += s->rows[r * FQ_ACTIONS + i] * is_free[i] * s->rows[q * FQ_ACTIONS + i];
            }
            system[r * FQ_ROWS + q] = sum;
        }
    }
    for (r = 0; r < FQ_ROWS; ++r) {
        binding[r] = binding[r] && system[r * FQ_ROWS + r] > 1e-10;
    }
    for (r = 0; r < FQ_ROWS; ++r) {
        const double strength = system[r * FQ_ROWS + r];
        for (q = 0; q < FQ_ROWS; ++q) {
            if (!(binding[r] && binding[q])) {
                system[r * FQ_ROWS + q] = 0.0;
            }
        }
        system[r * FQ_ROWS + r] += binding[r] ? 1e-5 * strength : 1.0;
        excess[r] = binding[r] ? excess[r] : 0.0;
    }
    fq_solve(system, excess);
    for (r = 0; r < FQ_ROWS; ++r) {
        force[r] = base[r] + excess[r] > 0.0 ? base[r] + excess[r] : 0.0;
    }
}

/* FQ_INTERIOR steps of an interior-point method from the inside: x near the nearest point, and what presses on it. */
static void fq_interior(const fq_polytope *s, const double *point, double *x, double *force)
{
    double slack[FQ_WALLS], z[FQ_WALLS], slack_step[FQ_WALLS], x_step[FQ_ACTIONS], inverse[FQ_ACTIONS], right[FQ_ACTIONS];
    double system[FQ_ROWS * FQ_ROWS], pressure[FQ_ROWS], size = 1.0;
    int step, r, q, i, w;
    for (i = 0; i < FQ_ACTIONS; ++i) {
        const double off = point[i] > s->inner[i] ? point[i] - s->inner[i] : s->inner[i] - point[i];
        size = 1.0 + off > size ? 1.0 + off : size;
        x[i] = s->inner[i];
        slack[FQ_ROWS + i] = s->high[i] - s->inner[i];
        slack[FQ_ROWS + FQ_ACTIONS + i] = s->inner[i] - s->low[i];
    }
    for (r = 0; r < FQ_ROWS; ++r) {
        slack[r] = s->bound[r];
        for (i = 0; i < FQ_ACTIONS; ++i) {
            slack[r] -= s->rows[r * FQ_ACTIONS + i] * s->inner[i];
        }
    }
    for (w = 0; w < FQ_WALLS; ++w) {
        z[w] = size;
    }
    for (step = 0; step < FQ_INTERIOR; ++step) {
        double target = 0.0, shrinking = 0.99, length;
        for (w = 0; w < FQ_WALLS; ++w) {
            target += slack[w] * z[w];
        }
        target = 0.1 * target / FQ_WALLS > 1e-10 ? 0.1 * target / FQ_WALLS : 1e-10;
        for (i = 0; i < FQ_ACTIONS; ++i) {
            const int up = FQ_ROWS + i, down = FQ_ROWS + FQ_ACTIONS + i;
            inverse[i] = 1.0 / (1.0 + z[up] / slack[up] + z[down] / slack[down]);
            right[i] = point[i] - x[i] - target / slack[up] + target / slack[down];
            for (r = 0; r < FQ_ROWS; ++r) {
                right[i] -= target / slack[r] * s->rows[r * FQ_ACTIONS + i];
            }
        }
        for (r = 0; r < FQ_ROWS; ++r) {
            pressure[r] = 0.0;
            for (i = 0; i < FQ_ACTIONS; ++i) {
                pressure[r] += s->rows[r * FQ_ACTIONS + i] * inverse[i] * right[i];
            }
            for (q = 0; q < FQ_ROWS; ++q) {
                double sum = 0.0;
                for (i = 0; i < FQ_ACTIONS; ++i) {
                    sum += s->rows[r * FQ_ACTIONS + i] * inverse[i] * s->rows[q * FQ_ACTIONS + i];
                }
                system[r * FQ_ROWS + q] = sum;
            }
            system[r * FQ_ROWS + r] += slack[r] / z[r] + 1e-5 * system[r * FQ_ROWS + r];
        }
        fq_solve(system, pressure);
        for (r = 0; r < FQ_ROWS; ++r) {
            slack_step[r] = -pressure[r] * slack[r] / z[r];
        }
        for (i = 0; i < FQ_ACTIONS; ++i) {
            double sum = right[i];
            for (r = 0; r < FQ_ROWS; ++r) {
                sum -= pressure[r] * s->rows[r * FQ_ACTIONS + i];
            }
            x_step[i] = inverse[i] * sum;
            slack_step[FQ_ROWS + i] = -x_step[i];
            slack_step[FQ_ROWS + FQ_ACTIONS + i] = x_step[i];
        }
        for (w = 0; w < FQ_WALLS; ++w) {
            const double z_step = target / slack[w] - z[w] - z[w] / slack[w] * slack_step[w];
            shrinking = -slack_step[w] / slack[w] > shrinking ? -slack_step[w] / slack[w] : shrinking;
            shrinking = -z_step / z[w] > shrinking ? -z_step / z[w] : shrinking;
        }
        length = 0.99 / shrinking < 1.0 ? 0.99 / shrinking : 1.0;
        for (i = 0; i < FQ_ACTIONS; ++i) {
            x[i] += length * x_step[i];
        }
        for (w = 0; w < FQ_WALLS; ++w) {
            const double z_step = target / slack[w] - z[w] - z[w] / slack[w] * slack_step[w];
            slack[w] = slack[w] + length * slack_step[w] > 1e-12 ? slack[w] + length * slack_step[w] : 1e-12;
            z[w] = z[w] + length * z_step > 1e-12 ? z[w] + length * z_step : 1e-12;
        }
    }
    for (r = 0; r < FQ_ROWS; ++r) {
        force[r] = z[r];
    }
}

/*@ nearest_point: finite walls */
/* The nearest point of a polytope, in doubles; an action that lies in it is left as it is. */
static void fq_nearest_point(const fq_polytope *s, const float *a, float *nearest)
{
    double point[FQ_ACTIONS], x[FQ_ACTIONS], at[FQ_ACTIONS], force[FQ_ROWS], least[FQ_ROWS], excess[FQ_ROWS];
    double size = 0.0, residual, share = 1.0;
    int inside = 1, r, i, step;
    for (r = 0; r < FQ_ROWS; ++r) {
        double sum = 0.0;
        for (i = 0; i < FQ_ACTIONS; ++i) {
            sum += s->matrix[r * FQ_ACTIONS + i] * (double)a[i];
        }
        inside = inside && sum <= s->limits[r];
    }
    for (i = 0; i < FQ_ACTIONS; ++i) {
        inside = inside && s->floor[i] <= (double)a[i] && (double)a[i] <= s->ceiling[i];
        point[i] = ((double)a[i] - s->center[i]) / s->scale;
        size = point[i] > size ? point[i] : (-point[i] > size ? -point[i] : size);
        nearest[i] = a[i];
    }
    if (inside || !fq_finite(a, FQ_ACTIONS)) {
        return;
    }
    fq_interior(s, point, x, force);
    for (r = 0; r < FQ_ROWS; ++r) {
        least[r] = force[r];
    }
    residual = fq_at(s, point, least, at, excess);
    for (step = 0; step < FQ_NEWTON; ++step) {
        double now;
        fq_newton(s, point, force);
        now = fq_at(s, point, force, at, excess);
        if (now < residual) {
            residual = now;
            for (r = 0; r < FQ_ROWS; ++r) {
                least[r] = force[r];
            }
        }
    }
    if (residual < 3e-6 * (1.0 + size)) {
        (void)fq_at(s, point, least, x, excess);
    }
    for (i = 0; i < FQ_ACTIONS; ++i) {
        x[i] = fq_clamp_double(x[i], s->low[i], s->high[i]);
    }
    for (r = 0; r < FQ_ROWS; ++r) {
        double room = s->bound[r] + s->margin[r] / 2.0, needed = 0.0;
        for (i = 0; i < FQ_ACTIONS; ++i) {
            room -= s->rows[r * FQ_ACTIONS + i] * s->inner[i];
            needed += s->rows[r * FQ_ACTIONS + i] * (x[i] - s->inner[i]);
        }
        room = room > 0.0 ? room : 0.0;
        if (needed > room && room / needed < share) {
            share = room / needed;
        }
    }
    for (i = 0; i < FQ_ACTIONS; ++i) {
        const double units = s->center[i] + s->scale * (s->inner[i] + share * (x[i] - s->inner[i]));
        nearest[i] = (float)fq_clamp_double(units, s->floor[i], s->ceiling[i]);
    }
}

/*@ add: */
static void fq_add(int n, const float *x, const float *y, float *sum)
{
    int i;
    for (i = 0; i < n; ++i) {
        sum[i] = x[i] + y[i];
    }
}

/*@ reached: clamp */
/* y = what is wanted, no further from the action before than the rate, and within the limits; y may be `before`. */
static void fq_reached(int n, const float *wanted, const float *before, const float *rate, const float *low,
                       const float *high, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = fq_clamp(fq_clamp(wanted[i], before[i] - rate[i], before[i] + rate[i]), low[i], high[i]);
    }
}

/*@ units: */
/* Deviations in double precision, cut at 100. */
static void fq_units(int n, const float *x, const float *shift, const float *scale, double *hat)
{
    int i;
    for (i = 0; i < n; ++i) {
        const double off = ((double)x[i] - (double)shift[i]) / (double)scale[i];
        hat[i] = off < -100.0 ? -100.0 : (off > 100.0 ? 100.0 : off);
    }
}

/*@ far: */
/* The least squared distance to a landmark, and which that is. */
static double fq_far(const float *landmarks, int count, int n, const double *hat, int *nearest)
{
    double least = 0.0;
    int j, i;
    *nearest = 0;
    for (j = 0; j < count; ++j) {
        double square = 0.0;
        for (i = 0; i < n; ++i) {
            const double off = hat[i] - (double)landmarks[i];
            square += off * off;
        }
        if (j == 0 || square < least) {
            least = square;
            *nearest = j;
        }
        landmarks += n;
    }
    return least;
}

/*@ changed: */
/* How far y is from w [1, x, x_i x_k], in its usual errors; y becomes these errors. */
static double fq_changed(const float *w, const float *errors, int in, int features, int out, const double *x, double *y)
{
    double most = 0.0;
    int k, i, j;
    for (k = 0; k < out; ++k) {
        double off = (double)w[0] - y[k];
        for (i = 0; i < in; ++i) {
            off += (double)w[1 + i] * x[i];
        }
        if (features > 1 + in) {
            const float *product = w + 1 + in;
            for (i = 0; i < in; ++i) {
                for (j = i; j < in; ++j) {
                    off += (double)*product * x[i] * x[j];
                    ++product;
                }
            }
        }
        y[k] = -off / (double)errors[k];
        off = off < 0.0 ? -off : off;
        off = (off < 1e-3 ? 1e-3 : off) / (double)errors[k];
        most = off > most ? off : most;
        w += features;
    }
    return most;
}

/*@ row_of: */
/* [-log p(d), errors cut at 5] of a sample at the squared distance d^2, p linear between the distances. */
static void fq_row_of(
    const double *distances, const double *shares, int n, double square, const double *errors, int judged, int size,
    double *row)
{
    const double d = sqrt(square);
    double share = 1.0;
    int i;
    for (i = 0; i < n - 1; ++i) {
        if (d >= distances[i]) {
            const double slope = (shares[i + 1] - shares[i]) / (distances[i + 1] - distances[i]);
            share = d < distances[i + 1] ? slope * (d - distances[i]) + shares[i] : shares[i + 1];
        }
    }
    row[0] = -log(share > 1e-12 ? share : 1e-12);
    for (i = 0; i < size; ++i) {
        const double e = judged != 0 ? errors[i] : 0.0;
        row[1 + i] = e < -5.0 ? -5.0 : (e > 5.0 ? 5.0 : e);
    }
}

/*@ together: */
/* Whether rows [-log p, errors] are on average farther than most[0], their squares than most[1], |mean| than most[2]. */
static int fq_together(const double *rows, int count, int width, const double *most)
{
    int strange = 0, i, k;
    for (i = 0; i < width; ++i) {
        double mean = 0.0, square = 0.0;
        for (k = 0; k < count; ++k) {
            const double v = rows[k * width + i];
            mean += v;
            square += v * v;
        }
        mean /= (double)count;
        square /= (double)count;
        if (i == 0) {
            strange |= mean > most[0] ? 1 : 0;
        } else {
            strange |= square > most[1] || mean > most[2] || -mean > most[2] ? 1 : 0;
        }
    }
    return strange;
}

/*@ straight: */
/* A linear controller, in double precision: a = clip(bias + obs weight, low, high). */
static void fq_straight(
    const double *weight, const double *bias, const double *low, const double *high, int n, int out, const float *obs,
    float *a)
{
    int i, k;
    for (k = 0; k < out; ++k) {
        double sum = bias[k];
        for (i = 0; i < n; ++i) {
            sum += (double)obs[i] * weight[i * out + k];
        }
        a[k] = (float)(sum < low[k] ? low[k] : (sum > high[k] ? high[k] : sum));
    }
}

/*@ pid: */
/* One PID loop, in double precision; p = kp, weight, gain, keep, rate, bias, low, high, track, and the memory is
   [integral, derivative, measured value]. */
static float fq_pid(const double *p, double y, double r, int begun, const double *memory, double *next)
{
    const double change = begun != 0 ? y - memory[2] : 0.0;
    const double derivative = p[3] * memory[1] - p[4] * change;
    const double integral = memory[0] + p[2] * (r - y);
    const double wanted = p[5] + p[0] * (p[1] * r - y) + integral + derivative;
    const double u = wanted < p[6] ? p[6] : (wanted > p[7] ? p[7] : wanted);
    if (p[8] > 0.0) {
        next[0] = integral + p[8] * (u - wanted);
    } else {
        next[0] = (wanted - u) * p[2] * (r - y) > 0.0 ? memory[0] : integral;
    }
    next[1] = derivative;
    next[2] = y;
    return (float)u;
}

/*@ widen: */
static void fq_widen(int n, const float *x, double *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = (double)x[i];
    }
}

/*@ narrowed: */
static void fq_narrowed(int n, const double *x, float *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        y[i] = (float)x[i];
    }
}

/*@ standardize: */
/* y = clip((x - mean) / deviation, -limit, limit), in double precision */
static void fq_standardize(
    const float *mean, const float *deviation, const float *limit, int n, const double *x, double *y)
{
    int i;
    for (i = 0; i < n; ++i) {
        const double v = (x[i] - (double)mean[i]) / (double)deviation[i], most = (double)limit[i];
        y[i] = v < -most ? -most : (v > most ? most : v);
    }
}

/*@ expect: exp_wide */
/* The mean of `values`, weighed by the softmax of x. */
static void fq_expect(const float *values, int n, const double *x, double *y)
{
    double most = x[0], mass = 0.0, sum = 0.0;
    int i;
    for (i = 1; i < n; ++i) {
        most = x[i] > most ? x[i] : most;
    }
    for (i = 0; i < n; ++i) {
        const double p = fq_exp_wide(x[i] - most);
        mass += p;
        sum += p * (double)values[i];
    }
    y[0] = sum / mass;
}

/*@ back_expect: exp_wide */
static void fq_back_expect(const float *values, int n, const double *x, const double *y, const double *g, double *d)
{
    double most = x[0], mass = 0.0;
    int i;
    for (i = 1; i < n; ++i) {
        most = x[i] > most ? x[i] : most;
    }
    for (i = 0; i < n; ++i) {
        d[i] = fq_exp_wide(x[i] - most);
        mass += d[i];
    }
    for (i = 0; i < n; ++i) {
        d[i] = g[0] * d[i] / mass * ((double)values[i] - y[0]);
    }
}

/*@ back_layer: */
/* d = W g, W in blocks of columns and the columns that are left, as fq_layer has it. */
static void fq_back_layer(const float *w, int in, int out, const double *g, double *d)
{
    int first, i, k;
    for (i = 0; i < in; ++i) {
        d[i] = 0.0;
    }
    for (first = 0; first + FQ_BLOCK <= out; first += FQ_BLOCK) {
        for (i = 0; i < in; ++i) {
            double sum = 0.0;
            for (k = 0; k < FQ_BLOCK; ++k) {
                sum += (double)w[k] * g[first + k];
            }
            d[i] += sum;
            w += FQ_BLOCK;
        }
    }
    for (k = first; k < out; ++k) {
        for (i = 0; i < in; ++i) {
            d[i] += (double)w[i] * g[k];
        }
        w += in;
    }
}

/*@ back_relu: */
static void fq_back_relu(int n, const double *x, const double *y, const double *g, double *d)
{
    int i;
    (void)y;
    for (i = 0; i < n; ++i) {
        d[i] = x[i] > 0.0 ? g[i] : 0.0;
    }
}

/*@ back_leaky_relu: */
static void fq_back_leaky_relu(int n, const double *x, const double *y, const double *g, double *d)
{
    int i;
    (void)y;
    for (i = 0; i < n; ++i) {
        d[i] = x[i] > 0.0 ? g[i] : (double)0.01f * g[i];
    }
}

/*@ back_tanh: */
static void fq_back_tanh(int n, const double *x, const double *y, const double *g, double *d)
{
    int i;
    (void)x;
    for (i = 0; i < n; ++i) {
        d[i] = g[i] * (1.0 - y[i] * y[i]);
    }
}

/*@ back_silu: tanh_wide */
static void fq_back_silu(int n, const double *x, const double *y, const double *g, double *d)
{
    int i;
    (void)y;
    for (i = 0; i < n; ++i) {
        const double t = fq_tanh_wide(0.5 * x[i]);
        d[i] = g[i] * 0.5 * (1.0 + t + 0.5 * x[i] * (1.0 - t * t));
    }
}

/*@ back_gelu: tanh_wide */
static void fq_back_gelu(int n, const double *x, const double *y, const double *g, double *d)
{
    const double c = (double)0.7978845608028654f, b = (double)0.044715f;
    int i;
    (void)y;
    for (i = 0; i < n; ++i) {
        const double v = x[i], t = fq_tanh_wide(c * (v + b * v * v * v));
        d[i] = g[i] * 0.5 * (1.0 + t + v * (1.0 - t * t) * c * (1.0 + 3.0 * b * v * v));
    }
}

/*@ back_softplus: tanh_wide */
static void fq_back_softplus(int n, const double *x, const double *y, const double *g, double *d)
{
    int i;
    (void)y;
    for (i = 0; i < n; ++i) {
        d[i] = g[i] * 0.5 * (1.0 + fq_tanh_wide(0.5 * x[i]));
    }
}

/*@ back_elu: */
static void fq_back_elu(int n, const double *x, const double *y, const double *g, double *d)
{
    int i;
    for (i = 0; i < n; ++i) {
        d[i] = x[i] > 0.0 ? g[i] : g[i] * (y[i] + 1.0);
    }
}

/*@ back_layer_norm: sqrt_wide */
static void fq_back_layer_norm(const float *gain, int n, const double *x, const double *y, const double *g, double *d)
{
    double mean = 0.0, square = 0.0, along = 0.0, middle = 0.0, root;
    int i;
    (void)y;
    for (i = 0; i < n; ++i) {
        mean += x[i];
    }
    mean /= (double)n;
    for (i = 0; i < n; ++i) {
        square += (x[i] - mean) * (x[i] - mean);
    }
    root = fq_sqrt_wide(square / (double)n + (double)1e-5f);
    for (i = 0; i < n; ++i) {
        d[i] = g[i] * (double)gain[i];
        middle += d[i];
        along += d[i] * (x[i] - mean) / root;
    }
    middle /= (double)n;
    along /= (double)n;
    for (i = 0; i < n; ++i) {
        d[i] = (d[i] - middle - (x[i] - mean) / root * along) / root;
    }
}

/*@ back_unit_length: sqrt_wide */
static void fq_back_unit_length(int n, const double *x, const double *y, const double *g, double *d)
{
    double square = 0.0, along = 0.0, root;
    int i;
    for (i = 0; i < n; ++i) {
        square += x[i] * x[i];
        along += y[i] * g[i];
    }
    root = fq_sqrt_wide(square + (double)1e-12f);
    for (i = 0; i < n; ++i) {
        d[i] = (g[i] - y[i] * along) / root;
    }
}

/*@ back_average_norm: */
static void fq_back_average_norm(int n, const double *x, const double *y, const double *g, double *d)
{
    double mean = 0.0, along = 0.0;
    int i;
    for (i = 0; i < n; ++i) {
        mean += x[i] < 0.0 ? -x[i] : x[i];
        along += y[i] * g[i];
    }
    mean /= (double)n;
    for (i = 0; i < n; ++i) {
        const double sign = x[i] > 0.0 ? 1.0 : (x[i] < 0.0 ? -1.0 : 0.0);
        d[i] = mean > (double)1e-8f ? g[i] / mean - sign * along / (mean * (double)n) : g[i] / (double)1e-8f;
    }
}

/*@ back_blend: */
static void fq_back_blend(const float *share, int n, const double *g, double *d)
{
    int i;
    for (i = 0; i < n; ++i) {
        d[i] = g[i] * (double)share[i];
    }
}

/*@ slope: */
/* A derivative by the action in the unit box as one by the action; what is no number counts as zero. */
static void fq_slope(const float *half_width, int n, const double *g, double *d)
{
    int i;
    for (i = 0; i < n; ++i) {
        const double v = g[i] / (double)half_width[i];
        uint64_t bits;
        memcpy(&bits, &v, sizeof bits);
        d[i] = (bits >> 52 & 0x7ffu) != 0x7ffu ? v : 0.0;
    }
}

/*@ higher: */
/* Whether q is above `value` by more than rounding. */
static int fq_higher(double q, double value)
{
    return q > value + 1e-10 * (1.0 + (value < 0.0 ? -value : value));
}

/*@ move: */
/* a + step unit d / max |d|, d = gradient unit. */
static void fq_move(const float *unit, int n, double step, const double *a, const double *gradient, double *moved)
{
    double largest = 1e-30;
    int i;
    for (i = 0; i < n; ++i) {
        const double size = gradient[i] * (double)unit[i];
        largest = size > largest ? size : (-size > largest ? -size : largest);
    }
    for (i = 0; i < n; ++i) {
        moved[i] = a[i] + step * (double)unit[i] * (gradient[i] * (double)unit[i] / largest);
    }
}

/*@ move_within: */
static void fq_move_within(int n, const double *low, const double *high, double *a)
{
    int i;
    for (i = 0; i < n; ++i) {
        a[i] = a[i] < low[i] ? low[i] : (a[i] > high[i] ? high[i] : a[i]);
    }
}

/*@ move_back: move_within */
/* No farther from `start` than `trust`, in half-widths. */
static void fq_move_back(
    const float *half_width, const double *low, const double *high, int n, double trust, const double *start,
    double *moved)
{
    double far = 0.0;
    int i;
    for (i = 0; i < n; ++i) {
        const double off = (moved[i] - start[i]) / (double)half_width[i];
        far = off > far ? off : (-off > far ? -off : far);
    }
    if (far > trust) {
        for (i = 0; i < n; ++i) {
            moved[i] = start[i] + (moved[i] - start[i]) * (trust / far);
        }
        fq_move_within(n, low, high, moved);
    }
}

/*@ tree_mean: */
/* The mean of the trees' leaves at x. */
static double fq_tree_mean(
    const int32_t *feature, const float *threshold, const int32_t *child, const float *value, int trees, int depth,
    const float *x)
{
    double sum = 0.0;
    int t, k;
    for (t = 0; t < trees; ++t) {
        int32_t node = t;
        for (k = 0; k < depth && child[node] != node; ++k) {
            node = child[node] + (x[feature[node]] > threshold[node] ? 1 : 0);
        }
        sum += (double)value[node];
    }
    return sum / (double)trees;
}

/*@ move_ends: */
/* The least and the greatest changes of the actions before, which s holds in the unit box. */
static void fq_move_ends(
    const float *rate, const float *least, const float *most, const float *center, const float *half_width, int n,
    const double *before, double *low, double *high)
{
    int i;
    for (i = 0; i < n; ++i) {
        const double at = (double)center[i] + (double)half_width[i] * before[i], step = (double)rate[i];
        const double down = (double)least[i] - at, up = (double)most[i] - at;
        low[i] = down < -step ? -step : (down > step ? step : down);
        high[i] = up < -step ? -step : (up > step ? step : up);
    }
}

/*@ crc: */
/* CRC-32 (IEEE 802.3) of bytes, lowest first, whatever the order of the machine. */
static uint32_t fq_crc_byte(uint32_t crc, uint32_t byte)
{
    int bit;
    crc ^= byte & 0xffu;
    for (bit = 0; bit < 8; ++bit) {
        crc = (crc >> 1) ^ ((crc & 1u) != 0u ? 0xedb88320u : 0u);
    }
    return crc;
}

/*@ crc_floats: crc */
static uint32_t fq_crc_floats(uint32_t crc, const float *x, int n)
{
    int i, byte;
    for (i = 0; i < n; ++i) {
        uint32_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        for (byte = 0; byte < 4; ++byte) {
            crc = fq_crc_byte(crc, bits >> (8 * byte));
        }
    }
    return crc;
}

/*@ crc_bytes: crc */
static uint32_t fq_crc_bytes(uint32_t crc, const int8_t *x, int n)
{
    int i;
    for (i = 0; i < n; ++i) {
        crc = fq_crc_byte(crc, (uint32_t)(uint8_t)x[i]);
    }
    return crc;
}

/*@ crc_doubles: crc */
static uint32_t fq_crc_doubles(uint32_t crc, const double *x, int n)
{
    int i, byte;
    for (i = 0; i < n; ++i) {
        uint64_t bits;
        memcpy(&bits, &x[i], sizeof bits);
        for (byte = 0; byte < 8; ++byte) {
            crc = fq_crc_byte(crc, (uint32_t)(bits >> (8 * byte)));
        }
    }
    return crc;
}

/*@ crc_words: crc */
static uint32_t fq_crc_words(uint32_t crc, const int32_t *x, int n)
{
    int i, byte;
    for (i = 0; i < n; ++i) {
        for (byte = 0; byte < 4; ++byte) {
            crc = fq_crc_byte(crc, (uint32_t)x[i] >> (8 * byte));
        }
    }
    return crc;
}
