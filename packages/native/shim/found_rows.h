#pragma once

#include <cstdint>

// One of the largest values of a row, as it crosses the wire: GET_TENSOR_TOP of packages/protocol.
struct top_value {
    uint32_t index;
    float    value;
};

static_assert(sizeof(top_value) == 8, "the wire has a size for it");

// A model's logits, of which servers gave only the largest: what remote_device.cpp has read in one decode, for llama.cpp, which
// samples. A row of libllama's memory is in parts, one a server whose tensors are cut, else one. A part begins with its largest values, in
// the order of their indexes, which count from the part's beginning on; what lies behind them means nothing. What is in no part here
// was read whole. So libllama may exchange rows, which it does where it computed outputs in another order.
struct found_part {
    uint64_t address; // of this part of one of the rows
    uint64_t columns;
    uint64_t count;
};

constexpr int FOUND_PARTS_MAX = 16;

struct found_rows {
    uint64_t   row_bytes;
    uint64_t   part_count;
    found_part parts[FOUND_PARTS_MAX]; // by their columns, rising, as they are read: who samples refuses another order
};
