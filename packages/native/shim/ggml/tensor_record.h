#pragma once

#include "ggml.h"

#include <cstdint>

// One tensor, packed. The layout is that of rpc_tensor (ggml-rpc.cpp, all protocol versions), so that
// a record can go to or come from the wire without another pass; what differs is said per function.
#pragma pack(push, 1)
struct tensor_record {
    uint64_t id;
    uint32_t type;
    uint64_t buffer;
    uint32_t ne[GGML_MAX_DIMS];
    uint32_t nb[GGML_MAX_DIMS];
    uint32_t op;
    int32_t  op_params[GGML_MAX_OP_PARAMS / sizeof(int32_t)];
    int32_t  flags;
    uint64_t src[GGML_MAX_SRC];
    uint64_t view_src;
    uint64_t view_offs;
    uint64_t data;
    char     name[GGML_MAX_NAME];
    int32_t  use_count;
};
#pragma pack(pop)
static_assert(sizeof(tensor_record) == 296, "the packed tensor record is 296 bytes");

// Fills a tensor from a record whose `buffer` and `data` are native addresses. Sources and view
// sources are left empty.
void tensor_from_record(const tensor_record & record, ggml_tensor & tensor);
