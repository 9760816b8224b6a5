// What two servers do with the partial results that they exchange, as upstream's (8.0.0): its backends convert and add.

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
