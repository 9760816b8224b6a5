// How partial results are added up: those that two servers exchange, as upstream's (8.0.0), whose backends convert and add; and
// those of a client's devices.

#include "api.h"
#include "ggml.h"

#include <cstdint>
#include <cstring>

// bf16, rounded to the nearest, ties to even; NaN stays one.
API void gs_bf16_from_f32(ggml_bf16_t * target, const float * source, double count) {
    ggml_fp32_to_bf16_row_ref(source, target, int64_t(count));
}

API void gs_add_f32(float * target, const float * source, double count) {
    for (size_t i = 0; i < size_t(count); i++) {
        target[i] += source[i];
    }
}

API void gs_add_bf16(float * target, const ggml_bf16_t * source, double count) {
    for (size_t i = 0; i < size_t(count); i++) {
        const uint32_t bits = uint32_t(source[i].bits) << 16;
        float value;
        memcpy(&value, &bits, sizeof(value));
        target[i] += value;
    }
}

// Adds up `count` rows of `size` values, one after the other in memory, into the first: in the order of ggml's own all-reduce, so
// that every bit is the same (ggml-backend-meta.cpp, allreduce_fallback, v0.5.0). What is more than a power of two of them is added to
// the first ones; then halves are added up. There each device adds in an order of its own, but only ever two values, which
// commutes. Bit i of `counting`: row i counts, else it is taken for zeros.
API void gs_add_parts(float * rows, int count, double size, int counting) {
    const size_t n = size_t(size);
    for (int i = 0; i < count; i++) {
        if ((counting >> i & 1) == 0) {
            memset(rows + size_t(i) * n, 0, n * sizeof(float));
        }
    }
    int half = 1;
    while (half * 4 <= count) {
        half *= 2;
    }
    for (int i = 2 * half; i < count; i++) {
        gs_add_f32(rows + size_t(i - 2 * half) * n, rows + size_t(i) * n, size);
    }
    for (; half >= 1; half /= 2) {
        for (int i = 0; i < half; i++) {
            gs_add_f32(rows + size_t(i) * n, rows + size_t(i + half) * n, size);
        }
    }
}
