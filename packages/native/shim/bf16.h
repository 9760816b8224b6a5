#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

// bf16 is the upper half of a float. Values lie one after the other, at whatever address.

// Rounds to the nearest, ties to even, as ggml does (ggml-impl.h `ggml_compute_fp32_to_bf16`, v0.5.0): infinities stay, what is beyond
// the largest becomes one, what is smaller than normal is rounded alike, and NaN stays NaN, a quiet one.
inline void bf16_from_f32(void * target, const void * source, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, static_cast<const char *>(source) + i * sizeof(bits), sizeof(bits));
        const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
        const uint32_t rounded = (bits + (0x7fff + (bits >> 16 & 1))) >> 16;
        const uint16_t half = uint16_t(is_nan ? bits >> 16 | 0x40 : rounded);
        memcpy(static_cast<char *>(target) + i * sizeof(half), &half, sizeof(half));
    }
}

// Exact.
inline void f32_from_bf16(void * target, const void * source, size_t count) {
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, static_cast<const char *>(source) + i * sizeof(half), sizeof(half));
        const uint32_t bits = uint32_t(half) << 16;
        memcpy(static_cast<char *>(target) + i * sizeof(bits), &bits, sizeof(bits));
    }
}
