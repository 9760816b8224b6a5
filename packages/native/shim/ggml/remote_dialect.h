#pragma once

#include "tensor_record.h"

#include <cstdint>
#include <vector>

// How the server of a device numbers and knows what ggml numbers and knows here. Tables are as long as ggml's enums; what
// they do not reach, the server lacks.
struct remote_dialect {
    // An operation that the server understands only while op_params[slot] & mask lies in a range.
    struct limit {
        uint32_t op;
        uint32_t slot;
        uint32_t mask;
        uint32_t min;
        uint32_t max;
    };

    // An operation that the server computes only when it has this source, of this type; any_type: of any.
    struct source_limit {
        uint32_t op;
        uint32_t source;
        uint32_t type;
    };
    static constexpr uint32_t any_type = UINT32_MAX;

    // By number here: the server's; -1, it has none.
    std::vector<int16_t> ops;
    std::vector<int16_t> unary_ops;
    std::vector<int16_t> glu_ops;
    // By number here: not 0 when the server knows the type.
    std::vector<int16_t> types;
    // By number here: not 0 when the result of the operation may need more than its bytes there.
    std::vector<int16_t> expanding_ops;
    std::vector<limit>   limits;
    std::vector<source_limit> source_limits;
    // The server reads use_count.
    bool has_use_counts = false;
    // Rows of quantized tensors that are no multiple of so many elements may be padded there.
    int64_t quantized_row_multiple = 1;

    // Whether the server can be asked to compute this: operation, kind, parameters and all types.
    bool supports(const ggml_tensor * op) const;

    // Whether the operation has a number there.
    bool has_number(const ggml_tensor * op) const;

    // Puts the server's numbers into a record of the tensor; what has none becomes NONE, which computes nothing.
    void translate(const ggml_tensor * tensor, tensor_record & record) const;

    bool may_expand(ggml_op op) const;

    // Whether the tensor may get padding on some backends (CUDA), which only the server can clear.
    bool may_be_padded(const ggml_tensor * tensor) const;
};
