/* The pair network of EDM on directed edges, forward and backward, without any [E, F] array in memory.
 *
 *   z1 = P[receiver] + Q[sender] + edge[0] w[0] + edge[1] w[1]      P, Q [A, F]; edge [E, 2]; w [2, F]
 *   z2 = W silu(z1) + b                                             W [F, F]
 *   m  = silu(z2)
 *   GATED:  out[receiver] += m sigmoid(g.m + g0)                    out [A, F]
 *   SUMMED: out[receiver] += m
 *   LENGTH: out[edge] = g.m                                         out [E]
 *
 * The backward pass computes z1 and z2 again. Edges are taken TILE at a time, so that what belongs to a tile stays in
 * the cache. Any order of edges is right; edges sorted by receiver are fastest. F is a multiple of 16, at most MAX_WIDTH.
 *
 * This file includes itself once per instruction set; the caller asks pair_mlp_level() which of them the CPU has.
 * Built with: cc -O3 -fPIC -shared. All arrays are float32, row-major and without gaps; indices are int64.
 */
#ifndef LANES

#include <immintrin.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum { GATED = 0, SUMMED = 1, LENGTH = 2 };
enum { OK = 0, NO_MEMORY = 1, BAD_INDEX = 2, BAD_CALL = 3 };
enum { MAX_WIDTH = 512, TILE = 48, ROWS = 6 };

typedef struct {
    int64_t mode, num_atoms, num_edges, width;
    const int64_t *receiver, *sender;
    const float *edge, *receiver_part, *sender_part, *edge_weight, *weight, *bias, *head, *head_bias;
    float *out;
    /* backward only: the gradient of out, and where the gradients go (all overwritten) */
    const float *grad_out;
    float *grad_edge, *grad_receiver_part, *grad_sender_part, *grad_edge_weight, *grad_weight, *grad_bias, *grad_head,
        *grad_head_bias;
} pair_call;

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

static int check(const pair_call *c) {
    if (c->width % 16 || c->width < 16 || c->width > MAX_WIDTH || c->mode < 0 || c->mode > LENGTH) return BAD_CALL;
    for (int64_t e = 0; e < c->num_edges; e++)
        if ((uint64_t)c->receiver[e] >= (uint64_t)c->num_atoms || (uint64_t)c->sender[e] >= (uint64_t)c->num_atoms)
            return BAD_INDEX;
    return OK;
}

#define INLINE static inline __attribute__((always_inline))
#define JOIN2(a, b) a##_##b
#define JOIN(a, b) JOIN2(a, b)

#pragma GCC push_options
#pragma GCC target("avx2,fma")
#define LANES 8
#define LEVEL avx2
#define COLUMNS 2
#include "pair_mlp.c"
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl")
#define LANES 16
#define LEVEL avx512
#define COLUMNS 4
#include "pair_mlp.c"
#pragma GCC pop_options

/* 0: this CPU can run none of it; 1: AVX2 and FMA; 2: AVX-512. */
int pair_mlp_level(void) {
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl"))
        return 2;
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? 1 : 0;
}

int pair_mlp_forward(const pair_call *c, int level) {
    int status = check(c);
    if (status) return status;
    return level == 2 ? forward_avx512(c) : forward_avx2(c);
}

int pair_mlp_backward(const pair_call *c, int level) {
    int status = check(c);
    if (status) return status;
    return level == 2 ? backward_avx512(c) : backward_avx2(c);
}

#else /* one instruction set: LANES floats per vector, COLUMNS vectors per block of the products */

#define N(name) JOIN(name, LEVEL)
#define vf N(vector)
#define vi N(integers)
#define PANEL (COLUMNS * LANES)

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef float N(anywhere) __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE vf N(load)(const float *p) { return (vf) * (const N(anywhere) *)p; }
INLINE void N(store)(float *p, vf v) { *(N(anywhere) *)p = (N(anywhere))v; }
INLINE vf N(all)(float x) { return x - (vf){}; }

#if LANES == 16
INLINE vf N(clamp)(vf x, vf low, vf high) {
    return (vf)_mm512_min_ps((__m512)high, _mm512_max_ps((__m512)low, (__m512)x));
}
INLINE vf N(inverse)(vf x) {
    vf guess = (vf)_mm512_rcp14_ps((__m512)x);
    return guess * (2.0f - x * guess);
}
INLINE float N(sum)(vf v) { return _mm512_reduce_add_ps((__m512)v); }
#else
INLINE vf N(clamp)(vf x, vf low, vf high) {
    return (vf)_mm256_min_ps((__m256)high, _mm256_max_ps((__m256)low, (__m256)x));
}
INLINE vf N(inverse)(vf x) { return 1.0f / x; }
INLINE float N(sum)(vf v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128((__m256)v), _mm256_extractf128_ps((__m256)v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_shuffle_ps(half, half, 1)));
}
#endif

/* 1 / (1 + exp(-x)): 2^n times a polynomial of degree 5 for 2^r, |r| <= 1/2 (minimax, relative error 8e-8). */
INLINE vf N(sigmoid)(vf x) {
    const float magic = 12582912.0f; /* 1.5 * 2^23: adding it rounds to an integer, held in the low bits */
    vf y = N(clamp)(x * -1.44269504f, N(all)(-126.0f), N(all)(126.0f));
    vf shifted = y + magic;
    vf r = y - (shifted - magic);
    vf p = 0.00132764724f + (vf){};
    p = p * r + 0.00967554189f;
    p = p * r + 0.0555071309f;
    p = p * r + 0.240221202f;
    p = p * r + 0.693146944f;
    p = p * r + 1.00000012f;
    return N(inverse)(1.0f + (vf)((vi)p + ((vi)shifted << 23)));
}

typedef struct {
    float *hidden, *hidden_slope, *message, *message_slope, *grad; /* [TILE, F] each */
    float *gate, *pull;                                            /* [TILE] each */
    float *forward_panels, *backward_panels;                       /* W and its transpose, packed, [F, F] each */
} N(tile);

static int N(prepare)(N(tile) * t, int64_t width) {
    size_t rows = (size_t)TILE * width, square = (size_t)width * width;
    float *next = scratch_of(sizeof(float) * (5 * rows + 2 * TILE + 2 * square));
    if (!next) return NO_MEMORY;
    t->forward_panels = next, next += square;
    t->backward_panels = next, next += square;
    t->hidden = next, next += rows;
    t->hidden_slope = next, next += rows;
    t->message = next, next += rows;
    t->message_slope = next, next += rows;
    t->grad = next, next += rows;
    t->gate = next, next += TILE;
    t->pull = next;
    return OK;
}

INLINE int64_t N(panel_width)(int64_t width, int64_t first) { return width - first < PANEL ? width - first : PANEL; }

/* Right factor of a product, [K, F] with K = F, as panels of at most PANEL columns. */
static void N(pack)(const float *weight, int64_t width, int transpose, float *panels) {
    for (int64_t first = 0; first < width; first += PANEL) {
        int64_t columns = N(panel_width)(width, first);
        for (int64_t k = 0; k < width; k++)
            for (int64_t c = 0; c < columns; c++)
                *panels++ = transpose ? weight[(first + c) * width + k] : weight[k * width + first + c];
    }
}

/* out[0..ROWS, 0..columns) = left[0..ROWS, 0..F) right[0..F, 0..columns) (+ start) */
INLINE void N(rows_times_panel)(const float *left, const float *right, int64_t width, const float *start, float *out,
                                const int columns) {
    vf sum[ROWS][COLUMNS];
#pragma GCC unroll 8
    for (int c = 0; c < columns; c++) {
        vf first = start ? N(load)(start + c * LANES) : (vf){};
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) sum[r][c] = first;
    }
    for (int64_t k = 0; k < width; k++) {
        vf b[COLUMNS];
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) b[c] = N(load)(right + (k * columns + c) * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            vf a = N(all)(left[r * width + k]);
#pragma GCC unroll 8
            for (int c = 0; c < columns; c++) sum[r][c] += a * b[c];
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; r++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) N(store)(out + r * width + c * LANES, sum[r][c]);
}

/* out [rows, F] = left [rows, F] times the packed matrix (+ start [F]); rows are rounded up to a multiple of ROWS. */
static void N(product)(const float *left, const float *panels, int64_t width, const float *start, float *out,
                       int64_t rows) {
    for (int64_t first = 0; first < width; first += PANEL) {
        int64_t columns = N(panel_width)(width, first) / LANES;
        const float *right = panels + first * width, *begin = start ? start + first : NULL;
        for (int64_t r = 0; r < rows; r += ROWS) {
            const float *a = left + r * width;
            float *o = out + r * width + first;
            switch (columns) {
            case 1: N(rows_times_panel)(a, right, width, begin, o, 1); break;
            case 2: N(rows_times_panel)(a, right, width, begin, o, 2); break;
#if COLUMNS == 4
            case 3: N(rows_times_panel)(a, right, width, begin, o, 3); break;
            default: N(rows_times_panel)(a, right, width, begin, o, 4); break;
#endif
            }
        }
    }
}

enum { N(OUTER) = 16 / COLUMNS }; /* divides 16, so it divides F */

/* out[0..OUTER, 0..columns) += sum over rows of left[row, 0..OUTER) right[row, 0..columns) */
INLINE void N(outer_block)(const float *left, const float *right, int64_t width, int64_t rows, float *out,
                           const int columns) {
    vf sum[N(OUTER)][COLUMNS];
#pragma GCC unroll 8
    for (int o = 0; o < N(OUTER); o++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) sum[o][c] = N(load)(out + o * width + c * LANES);
    for (int64_t k = 0; k < rows; k++) {
        vf b[COLUMNS];
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) b[c] = N(load)(right + k * width + c * LANES);
#pragma GCC unroll 8
        for (int o = 0; o < N(OUTER); o++) {
            vf a = N(all)(left[k * width + o]);
#pragma GCC unroll 8
            for (int c = 0; c < columns; c++) sum[o][c] += a * b[c];
        }
    }
#pragma GCC unroll 8
    for (int o = 0; o < N(OUTER); o++)
#pragma GCC unroll 8
        for (int c = 0; c < columns; c++) N(store)(out + o * width + c * LANES, sum[o][c]);
}

/* out [F, F] += left^T right, both [rows, F]. */
static void N(outer_product)(const float *left, const float *right, int64_t width, int64_t rows, float *out) {
    for (int64_t first = 0; first < width; first += PANEL) {
        int64_t columns = N(panel_width)(width, first) / LANES;
        for (int64_t o = 0; o < width; o += N(OUTER)) {
            float *target = out + o * width + first;
            switch (columns) {
            case 1: N(outer_block)(left + o, right + first, width, rows, target, 1); break;
            case 2: N(outer_block)(left + o, right + first, width, rows, target, 2); break;
#if COLUMNS == 4
            case 3: N(outer_block)(left + o, right + first, width, rows, target, 3); break;
            default: N(outer_block)(left + o, right + first, width, rows, target, 4); break;
#endif
            }
        }
    }
}

/* silu(z1) of the edges first .. first + rows, and its slope when asked for. */
INLINE void N(hidden)(const pair_call *c, int64_t first, int64_t rows, float *hidden, float *slope) {
    const int64_t width = c->width;
    for (int64_t r = 0; r < rows; r++) {
        const int64_t e = first + r;
        const float *p = c->receiver_part + c->receiver[e] * width, *q = c->sender_part + c->sender[e] * width;
        const vf x = N(all)(c->edge[2 * e]), y = N(all)(c->edge[2 * e + 1]);
        for (int64_t k = 0; k < width; k += LANES) {
            vf z = N(load)(p + k) + N(load)(q + k) + x * N(load)(c->edge_weight + k) +
                   y * N(load)(c->edge_weight + width + k);
            vf s = N(sigmoid)(z), h = z * s;
            N(store)(hidden + r * width + k, h);
            if (slope) N(store)(slope + r * width + k, s + h - h * s);
        }
    }
}

/* The gates sigmoid(g.m + g0) of a tile from its sums g.m, in place. */
INLINE void N(gates)(float *gate, float bias) {
    for (int64_t r = 0; r < TILE; r += LANES) N(store)(gate + r, N(sigmoid)(N(load)(gate + r) + bias));
}

static int N(forward)(const pair_call *c) {
    const int64_t width = c->width, mode = c->mode;
    N(tile) t;
    if (N(prepare)(&t, width)) return NO_MEMORY;
    N(pack)(c->weight, width, 1, t.forward_panels);
    if (mode != LENGTH) memset(c->out, 0, sizeof(float) * c->num_atoms * width);
    memset(t.hidden, 0, sizeof(float) * TILE * width);
    memset(t.gate, 0, sizeof(float) * TILE);
    for (int64_t first = 0; first < c->num_edges; first += TILE) {
        const int64_t rows = c->num_edges - first < TILE ? c->num_edges - first : TILE;
        N(hidden)(c, first, rows, t.hidden, NULL);
        N(product)(t.hidden, t.forward_panels, width, c->bias, t.message, rows);
        float *sums = mode == LENGTH ? c->out + first : t.gate;
        for (int64_t r = 0; r < rows; r++) {
            float *m = t.message + r * width;
            vf dot = (vf){};
            for (int64_t k = 0; k < width; k += LANES) {
                vf z = N(load)(m + k);
                z *= N(sigmoid)(z);
                if (mode != LENGTH) N(store)(m + k, z);
                if (mode != SUMMED) dot += z * N(load)(c->head + k);
            }
            if (mode != SUMMED) sums[r] = N(sum)(dot);
        }
        if (mode == LENGTH) continue;
        if (mode == GATED) N(gates)(t.gate, *c->head_bias);
        for (int64_t r = 0; r < rows; r++) {
            const vf gate = N(all)(mode == GATED ? t.gate[r] : 1.0f);
            const float *m = t.message + r * width;
            float *out = c->out + c->receiver[first + r] * width;
            for (int64_t k = 0; k < width; k += LANES) N(store)(out + k, N(load)(out + k) + gate * N(load)(m + k));
        }
    }
    return OK;
}

/* From z2 in t->message to m there, its slope, and the two numbers of each row: dL/dm = gate grad_out[receiver] +
 * pull head. Returns the gradient of the bias of the gate. */
INLINE float N(message_backward)(const pair_call *c, const N(tile) * t, int64_t first, int64_t rows) {
    const int64_t width = c->width, mode = c->mode;
    for (int64_t r = 0; r < rows; r++) {
        float *m = t->message + r * width, *slope = t->message_slope + r * width;
        const float *u = mode == LENGTH ? NULL : c->grad_out + c->receiver[first + r] * width;
        vf gate_dot = (vf){}, grad_dot = (vf){};
        for (int64_t k = 0; k < width; k += LANES) {
            vf z = N(load)(m + k), s = N(sigmoid)(z), h = z * s;
            N(store)(m + k, h);
            N(store)(slope + k, s + h - h * s);
            if (mode == GATED) gate_dot += h * N(load)(c->head + k), grad_dot += h * N(load)(u + k);
        }
        if (mode == GATED) t->gate[r] = N(sum)(gate_dot), t->pull[r] = N(sum)(grad_dot);
        if (mode == SUMMED) t->gate[r] = 1.0f, t->pull[r] = 0.0f;
        if (mode == LENGTH) t->gate[r] = 0.0f, t->pull[r] = c->grad_out[first + r];
    }
    for (int64_t r = rows; r < TILE; r++) t->gate[r] = t->pull[r] = 0.0f;
    if (mode != GATED) return 0.0f;
    N(gates)(t->gate, *c->head_bias);
    vf total = (vf){};
    for (int64_t r = 0; r < TILE; r += LANES) {
        vf s = N(load)(t->gate + r), pull = N(load)(t->pull + r) * s * (1.0f - s);
        N(store)(t->pull + r, pull);
        total += pull;
    }
    return N(sum)(total);
}

/* dL/dz2 into t->grad, and its sums over the tile: gradients of the bias and of the head. */
INLINE void N(second_backward)(const pair_call *c, const N(tile) * t, int64_t first, int64_t rows, int64_t padded) {
    const int64_t width = c->width;
    for (int64_t k = 0; k < width; k += LANES) {
        const vf head = c->mode == SUMMED ? (vf){} : N(load)(c->head + k);
        vf bias_sum = (vf){}, head_sum = (vf){};
        for (int64_t r = 0; r < rows; r++) {
            const vf pull = N(all)(t->pull[r]);
            vf g = pull * head;
            if (c->mode != LENGTH)
                g += N(all)(t->gate[r]) * N(load)(c->grad_out + c->receiver[first + r] * width + k);
            g *= N(load)(t->message_slope + r * width + k);
            N(store)(t->grad + r * width + k, g);
            bias_sum += g;
            head_sum += pull * N(load)(t->message + r * width + k);
        }
        for (int64_t r = rows; r < padded; r++) N(store)(t->grad + r * width + k, (vf){});
        N(store)(c->grad_bias + k, N(load)(c->grad_bias + k) + bias_sum);
        if (c->mode != SUMMED) N(store)(c->grad_head + k, N(load)(c->grad_head + k) + head_sum);
    }
}

/* From dL/dsilu(z1) in t->message to the gradients of everything that z1 was made from. */
INLINE void N(first_backward)(const pair_call *c, const N(tile) * t, int64_t first, int64_t rows) {
    const int64_t width = c->width;
    const float *w = c->edge_weight;
    for (int64_t k = 0; k < width; k += LANES) {
        vf sum_x = (vf){}, sum_y = (vf){};
        for (int64_t r = 0; r < rows; r++) {
            const int64_t e = first + r;
            float *p = c->grad_receiver_part + c->receiver[e] * width + k;
            float *q = c->grad_sender_part + c->sender[e] * width + k;
            vf g = N(load)(t->message + r * width + k) * N(load)(t->hidden_slope + r * width + k);
            N(store)(t->message + r * width + k, g);
            N(store)(p, N(load)(p) + g);
            N(store)(q, N(load)(q) + g);
            sum_x += g * c->edge[2 * e];
            sum_y += g * c->edge[2 * e + 1];
        }
        N(store)(c->grad_edge_weight + k, N(load)(c->grad_edge_weight + k) + sum_x);
        N(store)(c->grad_edge_weight + width + k, N(load)(c->grad_edge_weight + width + k) + sum_y);
    }
    for (int64_t r = 0; r < rows; r++) {
        vf x = (vf){}, y = (vf){};
        for (int64_t k = 0; k < width; k += LANES) {
            vf g = N(load)(t->message + r * width + k);
            x += g * N(load)(w + k);
            y += g * N(load)(w + width + k);
        }
        c->grad_edge[2 * (first + r)] = N(sum)(x);
        c->grad_edge[2 * (first + r) + 1] = N(sum)(y);
    }
}

static int N(backward)(const pair_call *c) {
    const int64_t width = c->width, mode = c->mode;
    N(tile) t;
    if (N(prepare)(&t, width)) return NO_MEMORY;
    N(pack)(c->weight, width, 1, t.forward_panels);
    N(pack)(c->weight, width, 0, t.backward_panels);
    memset(c->grad_receiver_part, 0, sizeof(float) * c->num_atoms * width);
    memset(c->grad_sender_part, 0, sizeof(float) * c->num_atoms * width);
    memset(c->grad_edge_weight, 0, sizeof(float) * 2 * width);
    memset(c->grad_weight, 0, sizeof(float) * width * width);
    memset(c->grad_bias, 0, sizeof(float) * width);
    if (mode != SUMMED) memset(c->grad_head, 0, sizeof(float) * width);
    memset(t.hidden, 0, sizeof(float) * TILE * width);
    float head_bias = 0.0f;
    for (int64_t first = 0; first < c->num_edges; first += TILE) {
        const int64_t rows = c->num_edges - first < TILE ? c->num_edges - first : TILE;
        const int64_t padded = (rows + ROWS - 1) / ROWS * ROWS;
        N(hidden)(c, first, rows, t.hidden, t.hidden_slope);
        N(product)(t.hidden, t.forward_panels, width, c->bias, t.message, rows);
        head_bias += N(message_backward)(c, &t, first, rows);
        N(second_backward)(c, &t, first, rows, padded);
        N(outer_product)(t.grad, t.hidden, width, rows, c->grad_weight);
        N(product)(t.grad, t.backward_panels, width, NULL, t.message, rows);
        N(first_backward)(c, &t, first, rows);
    }
    if (mode == GATED) *c->grad_head_bias = head_bias;
    return OK;
}

#undef N
#undef vf
#undef vi
#undef PANEL
#undef LANES
#undef LEVEL
#undef COLUMNS
#endif
