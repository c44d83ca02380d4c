/* One layer of the EDM network, forward and backward,.
 *
 * Both kinds of layer have a pair network on the directed edges. With f [A, F] the features, d the squared distance of
 * an edge, d0 the one at the input of the network, and W1 = [R, S, w] of width F + F + 2,
 *   z1 = R f[receiver] + S f[sender] + w [d, d0] + b1,   z2 = W2 silu(z1) + b2,   m = silu(z2).
 * MESSAGE: pooled = s sum of m sigmoid(g.m + g0) over senders (no sigmoid when g is NULL), s [A] the inverse scale;
 *          out = f + U2 silu(U1 [f, pooled] + c1) + c2                                              [A, F]
 * MOVE:    length = g.m, or range tanh(g.m) when bounded;
 *          out = x + s sum of (x[receiver] - x[sender]) length / (sqrt(d + 1e-8) + norm_constant)   [A, 3]
 *
 * The backward pass computes z1 again; it finds z2 where the forward pass left it. Edges are taken TILE at a time, so
 * that what belongs to a tile stays in the cache. Any order of edges is right; sorted by receiver is fastest. F is a
 * multiple of 16, at most MAX_WIDTH.
 *
 * This file includes itself once per instruction set; the caller asks layer_level() which of them the CPU has. ROWS
 * rows of a tile are multiplied at once: it is even and divides TILE; so does 16.
 * Built with: cc -O3 -fPIC -shared. All arrays are float32, row-major and without gaps; indices are int64.
 */
#ifndef LANES

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { MESSAGE = 0, MOVE = 1 };
enum { OK = 0, NO_MEMORY = 1, BAD_INDEX = 2, BAD_CALL = 3 };
enum { MAX_WIDTH = 512, PAD = 16 };
/* Rows of a tile are F + PAD apart: with a power of two many rows would share few lines of the cache. */

#if defined(__linux__) && __GNUC__ >= 11 && !defined(__clang__)
#define HAS_AMX
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

typedef struct {
    const float *first_weight, *first_bias; /* [R, S, w] [F, 2F + 2], b1 [F] */
    const float *weight, *bias;             /* W2, b2 */
    const float *head, *head_bias;          /* g [F], g0 [1] */
    const float *update_weight, *update_bias, *last_weight, *last_bias; /* U1 [F, 2F], c1, U2 [F, F], c2 */
} parameters;

typedef struct { /* the same shapes; every array is overwritten */
    float *first_weight, *first_bias, *weight, *bias, *head, *head_bias, *update_weight, *update_bias, *last_weight,
        *last_bias;
} gradients;

typedef struct {
    int64_t kind, bounded, num_atoms, num_edges, width;
    double step_range, norm_constant;
    const int64_t *receiver, *sender;                                   /* [E] */
    const float *features, *positions, *first_squared, *inverse_scale; /* [A, F], [A, 3], [E], [A] */
    parameters p;
    float *out;
    float *saved; /* MESSAGE: [A, 5F]; MOVE: [A, 2F]; written forward, read backward */
    void *kept;   /* z2 [E, F] in the type of the factors, written forward (unless NULL) and read backward */
    /* backward only */
    const float *grad_out;
    float *grad_features, *grad_positions, *grad_first_squared; /* the last may be NULL */
    gradients g;
} layer_call;

static __thread char *scratch = NULL;
static __thread size_t scratch_size = 0;

/* Memory of this thread, kept between calls; NULL when there is none. */
static void *scratch_of(size_t size) {
    if (size > scratch_size) {
        free(scratch);
        scratch = aligned_alloc(64, (size + 4095) / 4096 * 4096);
        scratch_size = scratch ? size : 0;
    }
    return scratch;
}

static int check(const layer_call *c) {
    if (c->width % 16 || c->width < 16 || c->width > MAX_WIDTH || c->kind < 0 || c->kind > MOVE) return BAD_CALL;
    for (int64_t e = 0; e < c->num_edges; e++)
        if ((uint64_t)c->receiver[e] >= (uint64_t)c->num_atoms || (uint64_t)c->sender[e] >= (uint64_t)c->num_atoms)
            return BAD_INDEX;
    return OK;
}

#define SETTLE __asm__ volatile("" ::: "memory") /* what was stored is in memory: AMX reads behind the compiler */
#define INLINE static inline __attribute__((always_inline))
#define STAGE static __attribute__((noinline))
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LANES 8
#define COLUMNS 2
#define LEVEL avx2
#define TILE 48
#define ROWS 6
#include "layer.c"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define LANES 16
#define COLUMNS 4
#define LEVEL avx512
#define TILE 48
#define ROWS 6
#include "layer.c"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
#define LANES 16
#define COLUMNS 4
#define LEVEL bfloat
#define TILE 48
#define ROWS 6
#define BFLOAT
#include "layer.c"
#pragma GCC pop_options

#ifdef HAS_AMX
#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,amx-tile,amx-bf16")
#define LANES 16
#define COLUMNS 4
#define LEVEL matrix
#define TILE 64
#define ROWS 32
#define BFLOAT
#define MATRIX
#include "layer.c"
#pragma GCC pop_options

/* Whether the CPU has products of bfloat16 matrices, and the system lets this process use them. */
static int matrix_allowed(void) {
    enum { REQUEST = 0x1023, MATRIX_DATA = 18 }; /* ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA */
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d >> 22 & 1) || !(d >> 24 & 1)) return 0;
    return syscall(SYS_arch_prctl, REQUEST, MATRIX_DATA) == 0;
}
#endif

/* 0: this CPU can run none of it; 1: AVX2 and FMA; 2: AVX-512; 3: AVX-512 with products of bfloat16; 4: and with AMX,
 * products of bfloat16 matrices. */
int layer_level(void) {
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return 0;
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512dq") || !__builtin_cpu_supports("avx512vl"))
        return 1;
    if (!__builtin_cpu_supports("avx512bf16")) return 2;
#ifdef HAS_AMX
    if (matrix_allowed()) return 4;
#endif
    return 3;
}

int layer_forward(const layer_call *c, int level) {
    int status = check(c);
    if (status) return status;
#ifdef HAS_AMX
    if (level == 4) return forward_matrix(c);
#endif
    return level == 3 ? forward_bfloat(c) : level == 2 ? forward_avx512(c) : forward_avx2(c);
}

int layer_backward(const layer_call *c, int level) {
    int status = check(c);
    if (status) return status;
#ifdef HAS_AMX
    if (level == 4) return backward_matrix(c);
#endif
    return level == 3 ? backward_bfloat(c) : level == 2 ? backward_avx512(c) : backward_avx2(c);
}

#else /* one instruction set: LANES floats per vector, COLUMNS vectors per block of the products */

#define N(name) JOIN(name, LEVEL)
#define vf N(vector)
#define vi N(integers)
#define operand N(operand_type)
#define factor N(factor_type)
#define PANEL (COLUMNS * LANES)

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float N(anywhere) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* ---- arithmetic ---- */

INLINE vf N(load)(const float *p) { return (vf) * (const N(anywhere) *)p; }
INLINE void N(store)(float *p, vf v) { *(N(anywhere) *)p = (N(anywhere))v; }
INLINE vf N(all)(float x) { return x - (vf){}; }

#if LANES == 16
INLINE vf N(clamp)(vf x, float low, float high) { /* keeps NaN */
    return (vf)_mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), (__m512)x));
}
INLINE vf N(inverse)(vf x) {
    vf guess = (vf)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
}
INLINE vf N(root)(vf x) { return (vf)_mm512_sqrt_ps((__m512)x); }
INLINE float N(sum)(vf v) { return _mm512_reduce_add_ps((__m512)v); }
#else
INLINE vf N(clamp)(vf x, float low, float high) {
    return (vf)_mm256_min_ps(_mm256_set1_ps(high), _mm256_max_ps(_mm256_set1_ps(low), (__m256)x));
}
INLINE vf N(inverse)(vf x) { return 1.0f / x; }
INLINE vf N(root)(vf x) { return (vf)_mm256_sqrt_ps((__m256)x); }
INLINE float N(sum)(vf v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
#endif

#define MAGIC 12582912.0f /* 1.5 * 2^23: adding it rounds to an integer, held in the low bits */

/* 1 / (1 + exp(-x)): 2^n times a minimax polynomial for 2^r, of degree 5 for |r| <= 1/2 (relative error 8e-8), or of
 * degree 3 for 0 <= r < 1 (8e-5) when the products are bfloat16. */
INLINE vf N(sigmoid)(vf x) {
#ifdef BFLOAT
    const __m512 y = (__m512)(x * -1.44269504f);
    const vf r = (vf)_mm512_reduce_ps(y, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC); /* y - floor(y) */
    vf p = N(all)(0.0780245497f);
    p = p * r + 0.226067141f;
    p = p * r + 0.695833504f;
    p = p * r + 0.999925196f;
    return (vf)_mm512_rcp14_ps((__m512)(1.0f + (vf)_mm512_scalef_ps((__m512)p, y))); /* p 2^floor(y) */
#else
    vf y = N(clamp)(x * -1.44269504f, -126.0f, 126.0f);
    vf shifted = y + MAGIC;
    vf r = y - (shifted - MAGIC);
    vf p = N(all)(0.00132764724f);
    p = p * r + 0.00967554189f;
    p = p * r + 0.0555071309f;
    p = p * r + 0.240221202f;
    p = p * r + 0.693146944f;
    p = p * r + 1.00000012f;
    return N(inverse)(1.0f + (vf)((vi)p + ((vi)shifted << 23)));
#endif
}

/* tanh(x) = u / (u + 2), u = exp(2x) - 1 with its own leading term, so that small x keep their precision. */
INLINE vf N(tanh)(vf x) {
    vf y = N(clamp)(x * 2.88539008f, -60.0f, 60.0f);
    vf shifted = y + MAGIC;
    vf r = y - (shifted - MAGIC);
    vf p = N(all)(0.000153458124f);
    p = p * r + 0.00133999309f;
    p = p * r + 0.00961848907f;
    p = p * r + 0.0555032864f;
    p = p * r + 0.240226462f;
    p = p * r + 0.693147182f;
    vf power = (vf)((vi)N(all)(1.0f) + ((vi)shifted << 23));
    vf u = power * (p * r) + (power - 1.0f);
    return u / (u + 2.0f);
}

/* silu(z) and its slope */
INLINE vf N(silu)(vf z, vf *slope) {
    vf s = N(sigmoid)(z), h = z * s;
    *slope = s + h - h * s;
    return h;
}

/* ---- factors of products: float32, or bfloat16 with STEP terms of a sum side by side; sums are float32 ----
 * Sums have a multiple of DEPTH terms, the last of them zeros where the matrices have fewer. */

INLINE int64_t N(up)(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

#ifdef BFLOAT
typedef uint16_t operand;
typedef __m512bh factor;
typedef int32_t N(unaligned_pair) __attribute__((aligned(2), may_alias));
#define STEP 2
#ifdef MATRIX
#define DEPTH 32
#else
#define DEPTH 2
#endif
#define ONE(p) ((factor)_mm512_set1_epi32(*(const N(unaligned_pair) *)(p)))
#define MANY(p) ((factor)_mm512_loadu_si512(p))
#define DOT(sum, a, b) ((vf)_mm512_dpbf16_ps((__m512)(sum), (a), (b)))

/* Rows r and r + 1, columns k .. k + 16, in two layouts, either of them NULL when not wanted: `rows` [.., width], and
 * `pairs` [.. / 2, width, 2]. */
INLINE void N(put)(operand *rows, operand *pairs, int64_t width, int64_t r, int64_t k, vf a, vf b) {
    const __m512i both = (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);
    if (rows) {
        _mm256_storeu_si256((__m256i *)(rows + r * width + k), _mm512_castsi512_si256(both));
        _mm256_storeu_si256((__m256i *)(rows + (r + 1) * width + k), _mm512_extracti64x4_epi64(both, 1));
    }
    if (!pairs) return;
    const __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6,
                                           21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    _mm512_storeu_si512(pairs + r * width + 2 * k, _mm512_permutexvar_epi16(order, both));
}
INLINE void N(keep)(operand *p, vf v) { _mm256_storeu_si256((__m256i *)p, (__m256i)_mm512_cvtneps_pbh((__m512)v)); }
INLINE vf N(kept)(const operand *p) {
    const __m512i half = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)p));
    return (vf)_mm512_slli_epi32(half, 16);
}
INLINE operand N(rounded)(float x) { /* to nearest, ties to even */
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

#else
typedef float operand;
typedef vf factor;
#define STEP 1
#define DEPTH 1
#define ONE(p) N(all)(*(p))
#define MANY(p) N(load)(p)
#define DOT(sum, a, b) ((sum) + (a) * (b))

INLINE void N(put)(operand *rows, operand *pairs, int64_t width, int64_t r, int64_t k, vf a, vf b) {
    operand *to = rows ? rows : pairs; /* one layout serves both products */
    N(store)(to + r * width + k, a);
    N(store)(to + (r + 1) * width + k, b);
}
INLINE void N(keep)(operand *p, vf v) { N(store)(p, v); }
INLINE vf N(kept)(const operand *p) { return N(load)(p); }
INLINE operand N(rounded)(float x) { return x; }
#endif

/* A left factor: element (r, k) at data[r * by + k], or, in pairs of rows, at data[(r / 2 * by + k) * 2 + r % 2]. */
typedef struct {
    const operand *data;
    int64_t by;
} N(matrix);

/* The float32 matrix x [rows, width] as a factor, in `buffer` when it must be converted. */
static N(matrix) N(as_factor)(const float *x, int64_t by, int64_t rows, int64_t width, int pairs, operand *buffer) {
#ifdef BFLOAT
    const int64_t pitch = pairs ? width : N(up)(width, DEPTH);
    for (int64_t r = 0; r < (pairs ? N(up)(rows, DEPTH) : rows); r += 2)
        for (int64_t k = 0; k < pitch; k += LANES) {
            const vf a = r < rows && k < width ? N(load)(x + r * by + k) : (vf){};
            const vf b = r + 1 < rows && k < width ? N(load)(x + (r + 1) * by + k) : (vf){};
            N(put)(pairs ? NULL : buffer, pairs ? buffer : NULL, pitch, r, k, a, b);
        }
    return (N(matrix)){buffer, pitch};
#else
    (void)rows, (void)width, (void)pairs, (void)buffer;
    return (N(matrix)){x, by};
#endif
}

/* ---- products ---- */

INLINE int64_t N(panel_width)(int64_t width, int64_t first) { return width - first < PANEL ? width - first : PANEL; }

#ifdef MATRIX
/* to[k][r] = from[r][k] for 16 x 16 pairs; `by_to` and `by_from` pairs between rows. */
INLINE void N(transpose)(const operand *from, int64_t by_from, operand *to, int64_t by_to) {
    __m512i x[16];
#pragma GCC unroll 16
    for (int r = 0; r < 16; r++) x[r] = _mm512_loadu_si512(from + 2 * r * by_from);
#pragma GCC unroll 4
    for (int bit = 1; bit < 16; bit *= 2) { /* swaps this bit of the row's number and of the column's */
        vi low, high;
#pragma GCC unroll 16
        for (int n = 0; n < 16; n++) low[n] = n & bit ? 16 + n - bit : n, high[n] = n & bit ? 16 + n : n + bit;
#pragma GCC unroll 16
        for (int r = 0; r < 16; r++) {
            if (r & bit) continue;
            const __m512i a = x[r], b = x[r + bit];
            x[r] = _mm512_permutex2var_epi32(a, (__m512i)low, b);
            x[r + bit] = _mm512_permutex2var_epi32(a, (__m512i)high, b);
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < 16; r++) _mm512_storeu_si512(to + 2 * r * by_to, x[r]);
}

/* The panel of 16 of these columns from n on, where each of them lies in one piece. */
INLINE void N(pack_turned)(const float *from, int64_t by_n, int64_t depth, int64_t columns, operand *panel) {
    operand rows[16 * DEPTH] __attribute__((aligned(64)));
    for (int64_t k = 0; k < depth; k += DEPTH) {
        for (int64_t n = 0; n < 16; n++) {
            const float *at = from + n * by_n + k;
            const vf a = N(load)(at), b = k + LANES < depth ? N(load)(at + LANES) : (vf){};
            _mm512_store_si512(rows + n * DEPTH, (__m512i)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a));
        }
        N(transpose)(rows, DEPTH / 2, panel + k * columns, columns);
    }
}
#endif

/* The matrix B[k][n] = from[k * by_k + n * by_n], k < depth, n < width, as panels of at most PANEL columns. Depth is
 * even. */
static void N(pack)(const float *from, int64_t by_k, int64_t by_n, int64_t depth, int64_t width, operand *panels) {
    const int64_t whole = N(up)(depth, DEPTH);
    for (int64_t first = 0; first < width; first += PANEL) {
        const int64_t columns = N(panel_width)(width, first);
        const float *corner = from + first * by_n;
        memset(panels + depth * columns, 0, sizeof(operand) * (whole - depth) * columns);
        if (by_n == 1)
            for (int64_t k = 0; k < depth; k += 2)
                for (int64_t n = 0; n < columns; n += LANES) {
                    const float *at = corner + k * by_k + n;
                    N(put)(NULL, panels, columns, k, n, N(load)(at), N(load)(at + by_k));
                }
        else
#ifdef MATRIX
            for (int64_t n = 0; n < columns; n += 16)
                N(pack_turned)(corner + n * by_n, by_n, depth, columns, panels + 2 * n);
#else
            for (int64_t n = 0; n < columns; n++)
                for (int64_t k = 0; k < depth; k++)
                    panels[(k / STEP * columns + n) * STEP + k % STEP] = N(rounded)(corner[k * by_k + n * by_n]);
#endif
        panels += whole * columns;
    }
}

#ifdef MATRIX
/* The eight tiles of AMX: 0 to 3 are sums, 16 x 16 float32; 4 and 5 left and 6 and 7 right factors of 32 terms. */
INLINE void N(begin)(void) {
    struct {
        uint8_t palette, start_row, reserved[14];
        uint16_t bytes[16]; /* of a row */
        uint8_t rows[16];
    } shape = {.palette = 1};
    for (int n = 0; n < 8; n++) shape.bytes[n] = 64, shape.rows[n] = 16;
    SETTLE;
    _tile_loadconfig(&shape);
}
INLINE void N(end)(void) { _tile_release(); }

/* out = left right + start for `high` times 16 rows and `wide` times 16 columns, each 1 or 2; start NULL is zero. Right
 * is in pairs of rows. */
INLINE void N(block)(const operand *left, int64_t by_left, const operand *right, int64_t by_right, int64_t depth,
                     const float *start, int64_t by_start, float *out, int64_t by_out, const int high,
                     const int wide) {
    SETTLE;
    if (start) {
        _tile_loadd(0, start, 4 * by_start);
        if (wide == 2) _tile_loadd(1, start + 16, 4 * by_start);
        if (high == 2) _tile_loadd(2, start + 16 * by_start, 4 * by_start);
        if (high == 2 && wide == 2) _tile_loadd(3, start + 16 * by_start + 16, 4 * by_start);
    } else {
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
    }
    for (int64_t k = 0; k < depth; k += DEPTH) {
        _tile_loadd(4, left + k, 2 * by_left);
        _tile_loadd(6, right + k * by_right, 4 * by_right);
        _tile_dpbf16ps(0, 4, 6);
        if (wide == 2) {
            _tile_loadd(7, right + k * by_right + 32, 4 * by_right);
            _tile_dpbf16ps(1, 4, 7);
        }
        if (high == 2) {
            _tile_loadd(5, left + 16 * by_left + k, 2 * by_left);
            _tile_dpbf16ps(2, 5, 6);
        }
        if (high == 2 && wide == 2) _tile_dpbf16ps(3, 5, 7);
    }
    _tile_stored(0, out, 4 * by_out);
    if (wide == 2) _tile_stored(1, out + 16, 4 * by_out);
    if (high == 2) _tile_stored(2, out + 16 * by_out, 4 * by_out);
    if (high == 2 && wide == 2) _tile_stored(3, out + 16 * by_out + 16, 4 * by_out);
}

/* The same for any number of rows up to 32, of which only these are read from `start` and written. */
INLINE void N(rows_block)(const operand *left, int64_t by_left, const operand *right, int64_t by_right, int64_t depth,
                          const float *start, int64_t by_start, float *out, int64_t by_out, int64_t rows,
                          const int wide) {
    if (rows == 32) N(block)(left, by_left, right, by_right, depth, start, by_start, out, by_out, 2, wide);
    else if (rows == 16) N(block)(left, by_left, right, by_right, depth, start, by_start, out, by_out, 1, wide);
    else {
        float spare[32 * 32] __attribute__((aligned(64)));
        for (int64_t r = 0; start && r < rows; r++)
            memcpy(spare + r * 32, start + r * by_start, sizeof(float) * 16 * wide);
        N(block)(left, by_left, right, by_right, depth, start ? spare : NULL, 32, spare, 32, 2, wide);
        for (int64_t r = 0; r < rows; r++) memcpy(out + r * by_out, spare + r * 32, sizeof(float) * 16 * wide);
    }
}

/* out [rows, width] = left [rows, depth] times packed panels, plus start (rows of it by_start apart; NULL is zero). */
STAGE void N(product)(N(matrix) left, const operand *panels, int64_t depth, int64_t width, const float *start,
                      int64_t by_start, float *out, int64_t by_out, int64_t rows) {
    depth = N(up)(depth, DEPTH);
    for (int64_t first = 0; first < width; first += PANEL) {
        const int64_t columns = N(panel_width)(width, first);
        for (int64_t r = 0; r < rows; r += ROWS)
            for (int64_t n = 0; n < columns; n += 32) {
                const operand *a = left.data + r * left.by, *b = panels + first * depth + 2 * n;
                const float *s = start ? start + r * by_start + first + n : NULL;
                float *o = out + r * by_out + first + n;
                const int64_t high = rows - r < ROWS ? rows - r : ROWS;
                if (columns - n > 16) N(rows_block)(a, left.by, b, columns, depth, s, by_start, o, by_out, high, 2);
                else N(rows_block)(a, left.by, b, columns, depth, s, by_start, o, by_out, high, 1);
            }
    }
}

/* out [depth, width] += left^T right, left [rows, depth], right [rows, width], both in pairs of rows, with zeros up to a
 * multiple of DEPTH rows. */
STAGE void N(outer_product)(N(matrix) left, N(matrix) right, int64_t depth, int64_t width, int64_t all_rows, float *out,
                            int64_t by_out) {
    enum { CHUNK = 256 };
    operand turned[32 * CHUNK] __attribute__((aligned(64)));
    all_rows = N(up)(all_rows, DEPTH);
    for (int64_t start = 0; start < all_rows; start += CHUNK) {
        const int64_t rows = all_rows - start < CHUNK ? all_rows - start : CHUNK;
        for (int64_t o = 0; o < depth; o += 32) {
            const int64_t high = depth - o < 32 ? depth - o : 32;
            for (int64_t k = 0; k < high; k += 16)
                for (int64_t r = 0; r < rows; r += 32)
                    N(transpose)(left.data + (start + r) * left.by + 2 * (o + k), left.by, turned + k * rows + r,
                                 rows / 2);
            for (int64_t n = 0; n < width; n += 32) {
                const operand *b = right.data + start * right.by + 2 * n;
                float *to = out + o * by_out + n;
                if (width - n > 16) N(rows_block)(turned, rows, b, right.by, rows, to, by_out, to, by_out, high, 2);
                else N(rows_block)(turned, rows, b, right.by, rows, to, by_out, to, by_out, high, 1);
            }
        }
    }
}

#else
INLINE void N(begin)(void) {}
INLINE void N(end)(void) {}

/* out = left right + start for `rows` rows and `columns` vectors of columns; start NULL is zero. */
INLINE void N(block)(const operand *left, int64_t by_left, const operand *right, int64_t depth, const float *start,
                     int64_t by_start, float *out, int64_t by_out, const int rows, const int columns) {
    vf sum[ROWS][COLUMNS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) sum[r][c] = start ? N(load)(start + r * by_start + c * LANES) : (vf){};
    for (int64_t k = 0; k < depth; k += STEP) {
        factor b[COLUMNS];
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) b[c] = MANY(right + (k * columns + c * STEP) * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            const factor a = ONE(left + r * by_left + k);
#pragma GCC unroll 8
            for (int c = 0; c < columns; c++) sum[r][c] = DOT(sum[r][c], a, b[c]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) N(store)(out + r * by_out + c * LANES, sum[r][c]);
}

/* out [rows, width] = left [rows, depth] times packed panels, plus start (rows of it by_start apart; NULL is zero). */
STAGE void N(product)(N(matrix) left, const operand *panels, int64_t depth, int64_t width, const float *start,
                      int64_t by_start, float *out, int64_t by_out, int64_t rows) {
    for (int64_t first = 0; first < width; first += PANEL) {
        const int64_t columns = N(panel_width)(width, first) / LANES;
        const operand *right = panels + first * depth;
        for (int64_t r = 0; r < rows;) {
            const operand *a = left.data + r * left.by;
            const float *s = start ? start + r * by_start + first : NULL;
            float *o = out + r * by_out + first;
            const int whole = rows - r >= ROWS;
            r += whole ? ROWS : 1;
#define BLOCK(count)                                                                        \
    case count:                                                                             \
        if (whole) N(block)(a, left.by, right, depth, s, by_start, o, by_out, ROWS, count); \
        else N(block)(a, left.by, right, depth, s, by_start, o, by_out, 1, count);          \
        break;
            switch (columns) {
                BLOCK(1)
                BLOCK(2)
#if COLUMNS == 4
                BLOCK(3)
                BLOCK(4)
#endif
            }
#undef BLOCK
        }
    }
}

enum { N(OUTER) = 16 / COLUMNS }; /* divides 16, so it divides every width */

/* out [OUTER, columns] += sum over rows of left[row, 0..OUTER) right[row, 0..columns) */
INLINE void N(outer_block)(const operand *left, int64_t by_left, const operand *right, int64_t by_right, int64_t rows,
                           float *out, int64_t by_out, const int columns) {
    vf sum[N(OUTER)][COLUMNS];
#pragma GCC unroll 8
    for (int o = 0; o < N(OUTER); o++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) sum[o][c] = N(load)(out + o * by_out + c * LANES);
    for (int64_t k = 0; k < rows; k += STEP) {
        factor b[COLUMNS];
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) b[c] = MANY(right + k * by_right + c * STEP * LANES);
#pragma GCC unroll 8
        for (int o = 0; o < N(OUTER); o++) {
            const factor a = ONE(left + k * by_left + o * STEP);
#pragma GCC unroll 8
            for (int c = 0; c < columns; c++) sum[o][c] = DOT(sum[o][c], a, b[c]);
        }
    }
#pragma GCC unroll 8
    for (int o = 0; o < N(OUTER); o++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) N(store)(out + o * by_out + c * LANES, sum[o][c]);
}

/* out [depth, width] += left^T right, left [rows, depth], right [rows, width], both in pairs of rows. */
STAGE void N(outer_product)(N(matrix) left, N(matrix) right, int64_t depth, int64_t width, int64_t all_rows, float *out,
                            int64_t by_out) {
    enum { CHUNK = 96 };
    for (int64_t start = 0; start < all_rows; start += CHUNK) {
        const int64_t rows = all_rows - start < CHUNK ? all_rows - start : CHUNK;
        for (int64_t first = 0; first < width; first += PANEL) {
            const operand *b = right.data + start * right.by + first * STEP;
            for (int64_t o = 0; o < depth; o += N(OUTER)) {
                const operand *a = left.data + start * left.by + o * STEP;
                float *target = out + o * by_out + first;
                switch (N(panel_width)(width, first) / LANES) {
                case 1: N(outer_block)(a, left.by, b, right.by, rows, target, by_out, 1); break;
                case 2: N(outer_block)(a, left.by, b, right.by, rows, target, by_out, 2); break;
#if COLUMNS == 4
                case 3: N(outer_block)(a, left.by, b, right.by, rows, target, by_out, 3); break;
                case 4: N(outer_block)(a, left.by, b, right.by, rows, target, by_out, 4); break;
#endif
                }
            }
        }
    }
}
#endif

/* out [depth, width] = left^T right over the atoms, from float32 matrices. */
static void N(weight_gradient)(const float *left, int64_t by_left, int64_t depth, const float *right, int64_t by_right,
                               int64_t width, int64_t rows, operand *left_buffer, operand *right_buffer, float *out,
                               int64_t by_out) {
    for (int64_t o = 0; o < depth; o++) memset(out + o * by_out, 0, sizeof(float) * width);
    N(outer_product)(N(as_factor)(left, by_left, rows, depth, 1, left_buffer),
                     N(as_factor)(right, by_right, rows, width, 1, right_buffer), depth, width, rows, out, by_out);
}

/* out [width] = sum of the rows of x */
static void N(column_sums)(const float *x, int64_t by_x, int64_t rows, int64_t width, float *out) {
    for (int64_t k = 0; k < width; k += LANES) {
        vf total = (vf){};
        for (int64_t r = 0; r < rows; r++) total += N(load)(x + r * by_x + k);
        N(store)(out + k, total);
    }
}

/* ---- what a call works with ---- */

typedef struct {
    /* a tile of edges: rows of them, rounded up to `padded` by repeating the last one */
    int64_t first, rows, padded;
    int64_t receiver[TILE], sender[TILE];
    int64_t num_runs, run[TILE + 1]; /* rows run[n] .. run[n + 1] have the same receiver */
    float displacement[3][TILE], squared[TILE], first_squared[TILE];
    float gate[TILE], pull[TILE]; /* dL/dm = gate grad_pooled[receiver] + pull g */
    float step[TILE];             /* what a move multiplies the displacement by; 0 in a message layer */
    float grad_squared[TILE];
    operand *hidden, *hidden_pairs, *grad, *grad_pairs; /* silu(z1) and dL/dz2 */
    float *hidden_slope, *message, *message_slope;      /* [TILE, F] each */
    operand *edge_panels;                               /* W2^T (forward) or W2 (backward), packed */
    float edge_weight[2 * MAX_WIDTH];                   /* w^T */
    /* the atoms */
    operand *panels;                        /* a packed matrix, up to [2F, F] */
    operand *left, *right;                  /* factors on the way to a product, [A + ROWS, 2F] each */
    float *parts;                           /* [R f + b1, S f] [A, 2F] */
    float *grad_parts, *grad_inputs, *work; /* [A, 2F], [A, 2F], [A, F] */
    const float *grad_pooled;               /* [A, F], rows 2F apart */
} N(state);

static int N(prepare)(const layer_call *c, N(state) * s) {
    const size_t width = c->width, tile = TILE * (width + PAD), square = width * width, atoms = c->num_atoms * width;
    float *next = scratch_of(sizeof(float) * (7 * tile + 3 * square + 9 * atoms + 4 * ROWS * width) + sizeof(N(state)));
    if (!next) return NO_MEMORY;
    s->hidden = (operand *)next, next += tile;
    s->grad = (operand *)next, next += tile;
    s->hidden_pairs = (operand *)next, next += tile;
    s->grad_pairs = (operand *)next, next += tile;
    s->hidden_slope = next, next += tile;
    s->message = next, next += tile;
    s->message_slope = next, next += tile;
    s->edge_panels = (operand *)next, next += square;
    s->panels = (operand *)next, next += 2 * square;
    s->left = (operand *)next, next += 2 * (atoms + ROWS * width);
    s->right = (operand *)next, next += 2 * (atoms + ROWS * width);
    s->grad_parts = next, next += 2 * atoms;
    s->grad_inputs = next, next += 2 * atoms;
    s->work = next;
    s->parts = c->saved;
    for (size_t k = 0; k < 2 * width; k++)
        s->edge_weight[k] = c->p.first_weight[k % width * (2 * width + 2) + 2 * width + k / width];
#ifndef BFLOAT
    s->hidden_pairs = s->hidden;
    s->grad_pairs = s->grad;
#endif
#ifdef MATRIX
    memset(s->hidden, 0, 2 * sizeof(float) * tile); /* the last terms of sums are read from the gaps between rows */
#endif
    return OK;
}

/* R f + b1 and S f of every atom. */
static void N(atom_parts)(const layer_call *c, N(state) * s) {
    const int64_t width = c->width, by = 2 * width + 2;
    const N(matrix) features = N(as_factor)(c->features, width, c->num_atoms, width, 0, s->left);
    for (int side = 0; side < 2; side++) {
        N(pack)(c->p.first_weight + side * width, 1, by, width, width, s->panels);
        N(product)(features, s->panels, width, width, side ? NULL : c->p.first_bias, 0, s->parts + side * width,
                   2 * width, c->num_atoms);
    }
}

/* Indices and geometry of the edges from `first` on. */
static void N(take_tile)(const layer_call *c, N(state) * s, int64_t first) {
    s->first = first;
    s->num_runs = 0;
    s->rows = c->num_edges - first < TILE ? c->num_edges - first : TILE;
    s->padded = (s->rows + ROWS - 1) / ROWS * ROWS;
    for (int64_t r = 0; r < TILE; r++) {
        const int64_t e = first + (r < s->rows ? r : s->rows - 1);
        const int64_t i = c->receiver[e], j = c->sender[e];
        s->receiver[r] = i;
        s->sender[r] = j;
        for (int axis = 0; axis < 3; axis++)
            s->displacement[axis][r] = c->positions[3 * i + axis] - c->positions[3 * j + axis];
        s->first_squared[r] = c->first_squared[e];
        if (r < s->rows && (r == 0 || i != s->receiver[r - 1])) s->run[s->num_runs++] = r;
    }
    s->run[s->num_runs] = s->rows;
    for (int64_t r = 0; r < TILE; r += LANES) {
        const vf x = N(load)(s->displacement[0] + r), y = N(load)(s->displacement[1] + r),
                 z = N(load)(s->displacement[2] + r);
        N(store)(s->squared + r, x * x + y * y + z * z);
    }
}

/* ---- the pair network forward ---- */

INLINE vf N(first_sum)(const layer_call *c, const N(state) * s, int64_t r, int64_t k) {
    const int64_t width = c->width;
    const float *parts = s->parts + k;
    return N(load)(parts + s->receiver[r] * 2 * width) + N(load)(parts + s->sender[r] * 2 * width + width) +
           s->squared[r] * N(load)(s->edge_weight + k) + s->first_squared[r] * N(load)(s->edge_weight + width + k);
}

/* silu(z1) of the tile, and its slope for the backward pass. */
STAGE void N(hidden_stage)(const layer_call *c, N(state) * s, const int backward) {
    const int64_t width = c->width, pitch = width + PAD;
    for (int64_t r = 0; r < s->padded; r += 2)
        for (int64_t k = 0; k < width; k += LANES) {
            vf slope_a, slope_b;
            const vf a = N(silu)(N(first_sum)(c, s, r, k), &slope_a);
            const vf b = N(silu)(N(first_sum)(c, s, r + 1, k), &slope_b);
            N(put)(backward ? NULL : s->hidden, backward ? s->hidden_pairs : NULL, pitch, r, k, a, b);
            if (!backward) continue;
            N(store)(s->hidden_slope + r * pitch + k, slope_a);
            N(store)(s->hidden_slope + (r + 1) * pitch + k, slope_b);
        }
}

/* m of the tile in place of z2, with g.m in `pull`. */
STAGE void N(message_stage)(const layer_call *c, N(state) * s) {
    const int64_t width = c->width, pitch = width + PAD;
    const float *head = c->p.head;
    for (int64_t r = 0; r < s->rows; r++) {
        float *m = s->message + r * pitch;
        operand *kept = c->kept ? (operand *)c->kept + (s->first + r) * width : NULL;
        vf head_dot = (vf){};
        for (int64_t k = 0; k < width; k += LANES) {
            const vf z = N(load)(m + k), h = z * N(sigmoid)(z);
            N(store)(m + k, h);
            if (kept) N(keep)(kept + k, z);
            if (head) head_dot += h * N(load)(head + k);
        }
        if (head) s->pull[r] = N(sum)(head_dot);
    }
}

/* From the z2 that was kept: m and its slope, g.m in `pull` and grad_pooled.m in `gate`. */
STAGE void N(message_again)(const layer_call *c, N(state) * s) {
    const int64_t width = c->width, pitch = width + PAD;
    const float *head = c->p.head;
    const int pooled = c->kind == MESSAGE;
    for (int64_t r = 0; r < s->padded; r++) {
        float *m = s->message + r * pitch, *slope = s->message_slope + r * pitch;
        const float *u = pooled ? s->grad_pooled + s->receiver[r] * 2 * width : NULL;
        const operand *kept = (operand *)c->kept + (s->first + (r < s->rows ? r : s->rows - 1)) * width;
        vf head_dot = (vf){}, grad_dot = (vf){};
        for (int64_t k = 0; k < width; k += LANES) {
            vf d;
            const vf h = N(silu)(N(kept)(kept + k), &d);
            N(store)(m + k, h);
            N(store)(slope + k, d);
            if (head) head_dot += h * N(load)(head + k);
            if (head && pooled) grad_dot += h * N(load)(u + k);
        }
        if (head) s->pull[r] = N(sum)(head_dot);
        if (head && pooled) s->gate[r] = N(sum)(grad_dot);
    }
}

/* Gates sigmoid(g.m + g0) of the tile from `pull` into `gate`, 1 without attention. */
static void N(gate_stage)(const layer_call *c, N(state) * s) {
    for (int64_t r = 0; r < TILE; r += LANES)
        N(store)(s->gate + r, c->p.head ? N(sigmoid)(N(load)(s->pull + r) + *c->p.head_bias) : N(all)(1.0f));
}

INLINE void N(pair_forward)(const layer_call *c, N(state) * s, int64_t first) {
    N(take_tile)(c, s, first);
    N(hidden_stage)(c, s, 0);
    N(product)((N(matrix)){s->hidden, c->width + PAD}, s->edge_panels, c->width, c->width, c->p.bias, 0, s->message,
               c->width + PAD, s->padded);
    N(message_stage)(c, s);
}

/* ---- MESSAGE forward ---- */

static void N(message_forward)(const layer_call *c, N(state) * s) {
    const int64_t width = c->width, atoms = c->num_atoms;
    float *inputs = c->saved + 2 * width * atoms, *pre = c->saved + 4 * width * atoms;
    for (int64_t i = 0; i < atoms; i++) {
        memcpy(inputs + 2 * i * width, c->features + i * width, sizeof(float) * width);
        memset(inputs + (2 * i + 1) * width, 0, sizeof(float) * width);
    }
    for (int64_t first = 0; first < c->num_edges; first += TILE) {
        N(pair_forward)(c, s, first);
        N(gate_stage)(c, s);
        for (int64_t n = 0; n < s->num_runs; n++) {
            const int64_t i = s->receiver[s->run[n]];
            float *pooled = inputs + (2 * i + 1) * width;
            for (int64_t k = 0; k < width; k += LANES) {
                vf total = (vf){};
                for (int64_t r = s->run[n]; r < s->run[n + 1]; r++)
                    total += s->gate[r] * N(load)(s->message + r * (width + PAD) + k);
                N(store)(pooled + k, N(load)(pooled + k) + c->inverse_scale[i] * total);
            }
        }
    }
    N(pack)(c->p.update_weight, 1, 2 * width, 2 * width, width, s->panels);
    N(product)(N(as_factor)(inputs, 2 * width, atoms, 2 * width, 0, s->left), s->panels, 2 * width, width,
               c->p.update_bias, 0, pre, width, atoms);
    for (int64_t k = 0; k < atoms * width; k += LANES) {
        const vf z = N(load)(pre + k);
        N(store)(s->work + k, z * N(sigmoid)(z));
    }
    for (int64_t i = 0; i < atoms; i++)
        for (int64_t k = 0; k < width; k += LANES)
            N(store)(c->out + i * width + k, N(load)(c->features + i * width + k) + N(load)(c->p.last_bias + k));
    N(pack)(c->p.last_weight, 1, width, width, width, s->panels);
    N(product)(N(as_factor)(s->work, width, atoms, width, 0, s->left), s->panels, width, width, c->out, width, c->out,
               width, atoms);
}

/* ---- MOVE forward ---- */

/* Of the tile: 1 / (distance + norm_constant), and the length from g.m in `pull`. */
INLINE void N(step_stage)(const layer_call *c, const N(state) * s, int64_t r, vf *inverse, vf *length, vf *slope) {
    const vf raw = N(load)(s->pull + r), range = N(all)((float)c->step_range);
    const vf bounded = N(tanh)(raw);
    *inverse = 1.0f / (N(root)(N(load)(s->squared + r) + 1e-8f) + (float)c->norm_constant);
    *length = c->bounded ? range * bounded : raw;
    *slope = c->bounded ? range - range * bounded * bounded : N(all)(1.0f);
}

static void N(move_forward)(const layer_call *c, N(state) * s) {
    memcpy(c->out, c->positions, sizeof(float) * 3 * c->num_atoms);
    for (int64_t first = 0; first < c->num_edges; first += TILE) {
        N(pair_forward)(c, s, first);
        for (int64_t r = 0; r < TILE; r += LANES) {
            vf inverse, length, slope;
            N(step_stage)(c, s, r, &inverse, &length, &slope);
            N(store)(s->step + r, inverse * length);
        }
        for (int64_t r = 0; r < s->rows; r++) {
            const int64_t i = s->receiver[r];
            const float step = s->step[r] * c->inverse_scale[i];
            for (int axis = 0; axis < 3; axis++) c->out[3 * i + axis] += step * s->displacement[axis][r];
        }
    }
}

static int N(forward)(const layer_call *c) {
    N(state) s;
    if (N(prepare)(c, &s)) return NO_MEMORY;
    memset(s.gate, 0, sizeof s.gate);
    memset(s.pull, 0, sizeof s.pull);
    memset(s.step, 0, sizeof s.step);
    N(pack)(c->p.weight, 1, c->width, c->width, c->width, s.edge_panels);
    N(begin)();
    N(atom_parts)(c, &s);
    c->kind == MESSAGE ? N(message_forward)(c, &s) : N(move_forward)(c, &s);
    N(end)();
    return OK;
}

/* ---- backward ---- */

/* From g.m and grad_pooled.m to the gate and the pull of every edge of a message. */
static void N(gate_backward)(const layer_call *c, N(state) * s) {
    float grad_dot[TILE];
    if (c->p.head) memcpy(grad_dot, s->gate, sizeof grad_dot);
    N(gate_stage)(c, s);
    for (int64_t r = 0; r < TILE; r += LANES) {
        const vf gate = N(load)(s->gate + r);
        N(store)(s->pull + r, c->p.head ? N(load)(grad_dot + r) * gate * (1.0f - gate) : (vf){});
    }
    for (int64_t r = s->rows; r < TILE; r++) s->gate[r] = s->pull[r] = 0.0f;
    if (c->p.head)
        for (int64_t r = 0; r < s->rows; r++) *c->g.head_bias += s->pull[r];
}

/* From g.m to the pull of every edge of a move, and the direct part of the gradient of its geometry. */
static void N(step_backward)(const layer_call *c, N(state) * s) {
    float along[TILE];
    for (int64_t r = 0; r < TILE; r++) {
        const int64_t i = s->receiver[r];
        along[r] = 0.0f;
        for (int axis = 0; axis < 3; axis++) along[r] += c->grad_out[3 * i + axis] * s->displacement[axis][r];
        along[r] *= r < s->rows ? c->inverse_scale[i] : 0.0f;
    }
    for (int64_t r = 0; r < TILE; r += LANES) {
        vf inverse, length, slope;
        const vf dot = N(load)(along + r), distance = N(root)(N(load)(s->squared + r) + 1e-8f);
        N(step_stage)(c, s, r, &inverse, &length, &slope);
        N(store)(s->step + r, inverse * length);
        N(store)(s->pull + r, dot * inverse * slope);
        N(store)(s->grad_squared + r, -0.5f * dot * length * inverse * inverse / distance);
    }
    memset(s->gate, 0, sizeof s->gate);
}

/* dL/dz2 of the tile, and its sums: the gradients of b2 and g. */
STAGE void N(second_backward)(const layer_call *c, N(state) * s, const int pooled) {
    const int64_t width = c->width, pitch = width + PAD;
    for (int64_t k = 0; k < width; k += LANES) {
        const vf head = c->p.head ? N(load)(c->p.head + k) : (vf){};
        vf bias_sum = (vf){}, head_sum = (vf){};
        for (int64_t r = 0; r < s->padded; r += 2) {
            vf g[2];
#pragma GCC unroll 2
            for (int q = 0; q < 2; q++) {
                const int64_t at = (r + q) * pitch + k;
                const vf pull = N(all)(s->pull[r + q]);
                g[q] = pull * head;
                if (pooled) g[q] += s->gate[r + q] * N(load)(s->grad_pooled + s->receiver[r + q] * 2 * width + k);
                g[q] *= N(load)(s->message_slope + at);
                bias_sum += g[q];
                head_sum += pull * N(load)(s->message + at);
            }
            N(put)(s->grad, s->grad_pairs, pitch, r, k, g[0], g[1]);
        }
        N(store)(c->g.bias + k, N(load)(c->g.bias + k) + bias_sum);
        if (c->p.head) N(store)(c->g.head + k, N(load)(c->g.head + k) + head_sum);
    }
}

/* From dL/dsilu(z1) in `message` to the gradients of the atom parts, of w (transposed, [2, F]) and of d and d0. */
STAGE void N(first_backward)(const layer_call *c, N(state) * s, float *grad_edge_weight) {
    const int64_t width = c->width, pitch = width + PAD;
    const float *w = s->edge_weight;
    for (int64_t k = 0; k < width; k += LANES) {
        vf sum_x = (vf){}, sum_y = (vf){};
        for (int64_t n = 0; n < s->num_runs; n++) {
            float *p = s->grad_parts + s->receiver[s->run[n]] * 2 * width + k;
            vf total = (vf){};
            for (int64_t r = s->run[n]; r < s->run[n + 1]; r++) {
                float *q = s->grad_parts + (s->sender[r] * 2 + 1) * width + k, *at = s->message + r * pitch + k;
                const vf g = N(load)(at) * N(load)(s->hidden_slope + r * pitch + k);
                N(store)(at, g);
                N(store)(q, N(load)(q) + g);
                total += g;
                sum_x += g * s->squared[r];
                sum_y += g * s->first_squared[r];
            }
            N(store)(p, N(load)(p) + total);
        }
        N(store)(grad_edge_weight + k, N(load)(grad_edge_weight + k) + sum_x);
        N(store)(grad_edge_weight + width + k, N(load)(grad_edge_weight + width + k) + sum_y);
    }
    for (int64_t r = 0; r < s->rows; r++) {
        vf x = (vf){};
        for (int64_t k = 0; k < width; k += LANES) x += N(load)(s->message + r * pitch + k) * N(load)(w + k);
        s->grad_squared[r] += N(sum)(x);
    }
    if (!c->grad_first_squared) return;
    for (int64_t r = 0; r < s->rows; r++) {
        vf y = (vf){};
        for (int64_t k = 0; k < width; k += LANES) y += N(load)(s->message + r * pitch + k) * N(load)(w + width + k);
        c->grad_first_squared[s->first + r] = N(sum)(y);
    }
}

/* From the gradients of the squared distances, and of what a move adds with the step of each edge, to the positions. */
STAGE void N(position_gradient)(const layer_call *c, const N(state) * s) {
    for (int64_t n = 0; n < s->num_runs; n++) {
        const int64_t i = s->receiver[s->run[n]];
        float total[3] = {0.0f, 0.0f, 0.0f}, push[3];
        for (int axis = 0; axis < 3; axis++)
            push[axis] = c->kind == MOVE ? c->inverse_scale[i] * c->grad_out[3 * i + axis] : 0.0f;
        for (int64_t r = s->run[n]; r < s->run[n + 1]; r++) {
            float *other = c->grad_positions + 3 * s->sender[r];
            for (int axis = 0; axis < 3; axis++) {
                const float g = 2.0f * s->grad_squared[r] * s->displacement[axis][r] + push[axis] * s->step[r];
                total[axis] += g;
                other[axis] -= g;
            }
        }
        for (int axis = 0; axis < 3; axis++) c->grad_positions[3 * i + axis] += total[axis];
    }
}

/* The pair network on all edges, and the layers in front of it; adds to grad_features and grad_positions. */
static void N(pair_backward)(const layer_call *c, N(state) * s) {
    const int64_t width = c->width, pitch = width + PAD, atoms = c->num_atoms, by = 2 * width + 2;
    const int pooled = c->kind == MESSAGE;
    float grad_edge_weight[2 * MAX_WIDTH];
    memset(grad_edge_weight, 0, sizeof grad_edge_weight);
    memset(s->grad_parts, 0, sizeof(float) * 2 * atoms * width);
    memset(c->g.weight, 0, sizeof(float) * width * width);
    memset(c->g.bias, 0, sizeof(float) * width);
    if (c->g.head) memset(c->g.head, 0, sizeof(float) * width);
    if (c->g.head_bias) *c->g.head_bias = 0.0f;
    N(pack)(c->p.weight, width, 1, width, width, s->edge_panels);
    for (int64_t first = 0; first < c->num_edges; first += TILE) {
        N(take_tile)(c, s, first);
        N(hidden_stage)(c, s, 1);
        N(message_again)(c, s);
        if (pooled) {
            memset(s->grad_squared, 0, sizeof s->grad_squared);
            N(gate_backward)(c, s);
            N(second_backward)(c, s, 1);
        } else {
            N(step_backward)(c, s);
            N(second_backward)(c, s, 0);
        }
        N(outer_product)((N(matrix)){s->grad_pairs, pitch}, (N(matrix)){s->hidden_pairs, pitch}, width, width,
                         s->padded, c->g.weight, width);
        N(product)((N(matrix)){s->grad, pitch}, s->edge_panels, width, width, NULL, 0, s->message, pitch, s->padded);
        N(first_backward)(c, s, grad_edge_weight);
        N(position_gradient)(c, s);
    }
    for (int64_t n = 0; n < width; n++) {
        c->g.first_weight[n * by + 2 * width] = grad_edge_weight[n];
        c->g.first_weight[n * by + 2 * width + 1] = grad_edge_weight[width + n];
    }
    N(column_sums)(s->grad_parts, 2 * width, atoms, width, c->g.first_bias);
    for (int side = 0; side < 2; side++) {
        const float *grad = s->grad_parts + side * width;
        N(weight_gradient)(grad, 2 * width, width, c->features, width, width, atoms, s->left, s->right,
                           c->g.first_weight + side * width, by);
        N(pack)(c->p.first_weight + side * width, by, 1, width, width, s->panels);
        N(product)(N(as_factor)(grad, 2 * width, atoms, width, 0, s->left), s->panels, width, width, c->grad_features,
                   width, c->grad_features, width, atoms);
    }
}

/* The update network of a message layer: its gradients, and s->grad_inputs, that of [f, pooled] before scaling. */
static void N(update_backward)(const layer_call *c, N(state) * s) {
    const int64_t width = c->width, atoms = c->num_atoms;
    const float *inputs = c->saved + 2 * width * atoms, *pre = c->saved + 4 * width * atoms;
    float *activated = s->grad_parts, *grad = s->grad_parts + width * atoms, *slope = s->work;
    for (int64_t k = 0; k < atoms * width; k += LANES) {
        vf d;
        N(store)(activated + k, N(silu)(N(load)(pre + k), &d));
        N(store)(slope + k, d);
    }
    N(weight_gradient)(c->grad_out, width, width, activated, width, width, atoms, s->left, s->right, c->g.last_weight,
                       width);
    N(column_sums)(c->grad_out, width, atoms, width, c->g.last_bias);
    N(pack)(c->p.last_weight, width, 1, width, width, s->panels);
    N(product)(N(as_factor)(c->grad_out, width, atoms, width, 0, s->left), s->panels, width, width, NULL, 0, grad,
               width, atoms);
    for (int64_t k = 0; k < atoms * width; k += LANES) N(store)(grad + k, N(load)(grad + k) * N(load)(slope + k));
    N(weight_gradient)(grad, width, width, inputs, 2 * width, 2 * width, atoms, s->left, s->right, c->g.update_weight,
                       2 * width);
    N(column_sums)(grad, width, atoms, width, c->g.update_bias);
    N(pack)(c->p.update_weight, 2 * width, 1, width, 2 * width, s->panels);
    N(product)(N(as_factor)(grad, width, atoms, width, 0, s->left), s->panels, width, 2 * width, NULL, 0,
               s->grad_inputs, 2 * width, atoms);
}

static int N(backward)(const layer_call *c) {
    const int64_t width = c->width, atoms = c->num_atoms;
    N(state) s;
    if (N(prepare)(c, &s)) return NO_MEMORY;
    memset(s.gate, 0, sizeof s.gate);
    memset(s.pull, 0, sizeof s.pull);
    memset(s.step, 0, sizeof s.step);
    N(begin)();
    if (c->kind == MESSAGE) {
        memset(c->grad_positions, 0, sizeof(float) * 3 * atoms);
        N(update_backward)(c, &s);
        for (int64_t i = 0; i < atoms; i++)
            for (int64_t k = 0; k < width; k += LANES) {
                float *own = s.grad_inputs + 2 * i * width + k, *pooled = own + width;
                N(store)(c->grad_features + i * width + k, N(load)(own) + N(load)(c->grad_out + i * width + k));
                N(store)(pooled, N(load)(pooled) * c->inverse_scale[i]);
            }
        s.grad_pooled = s.grad_inputs + width;
    } else {
        memcpy(c->grad_positions, c->grad_out, sizeof(float) * 3 * atoms);
        memset(c->grad_features, 0, sizeof(float) * atoms * width);
    }
    N(pair_backward)(c, &s);
    N(end)();
    return OK;
}

#undef N
#undef vf
#undef vi
#undef operand
#undef factor
#undef STEP
#undef ONE
#undef MANY
#undef DOT
#undef PANEL
#undef MAGIC
#undef LANES
#undef LEVEL
#undef COLUMNS
#undef BFLOAT
#undef MATRIX
#undef DEPTH
#undef TILE
#undef ROWS
#endif
