// How partial results are added up: those that two servers exchange, as upstream's (8.0.0), whose backends convert and add; and
// those of a client's devices.

#include "api.h"
#include "bf16.h"

#include <cstdint>
#include <cstring>

API void gs_bf16_from_f32(void * target, const void * source, double count) {
    bf16_from_f32(target, source, size_t(count));
}

API void gs_f32_from_bf16(void * target, const void * source, double count) {
    f32_from_bf16(target, source, size_t(count));
}

API void gs_add_f32(float * target, const float * source, double count) {
    for (size_t i = 0; i < size_t(count); i++) {
        target[i] += source[i];
    }
}

API void gs_add_bf16(float * target, const uint16_t * source, double count) {
    for (size_t i = 0; i < size_t(count); i++) {
        float value;
        f32_from_bf16(&value, source + i, 1);
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
