#pragma once

#include "ggml-backend.h"
#include "ggml.h"

#include <cstddef>
#include <cstdint>
#include <vector>

// What a conversion is done through, in slices: all of one group of rows must fit.
constexpr size_t kRepackStagingBytes = size_t(4) << 20;

// Dense rows of blocks of a quantized type.
struct quantized_rows {
    uint8_t * data;
    int64_t   row_blocks;
    int64_t   rows;
};

// One of the layouts of the CPU backend's CPU_REPACK buffer type, in which its matrix products are faster: the blocks of a
// group of rows with the same place in their rows are woven into one, in the same memory.
//
// The backend converts to a layout only. Whatever else wants to see such a weight needs it back: each layout is a
// permutation of the bits of a group, some of them flipped, which a few conversions of known bits tell. One that turns out to
// be something else is not used.
class repack_layout {
public:
    // Whether this is a layout that can be taken back; `traits` is the `extra` of the buffer type's tensors, of which `rows`
    // make a group. Throws std::bad_alloc.
    bool learn(ggml_backend_buffer_t buffer, ggml_type type, void * traits, int64_t rows);

    // In place, through kRepackStagingBytes. The rows are a multiple of a group's.
    void pack(const quantized_rows & matrix, uint8_t * staging) const;
    void unpack(const quantized_rows & matrix, uint8_t * staging) const;

    // Whether the matrix can be converted at all.
    bool takes(const quantized_rows & matrix) const;

    void *    traits() const { return m_traits; }
    ggml_type type() const { return m_type; }
    int64_t   group_rows() const { return m_rows; }
    size_t    bytes_of(const quantized_rows & matrix) const;

private:
    // Bytes that stay whole and side by side.
    struct run {
        uint32_t to, from, size;
    };
    // Bits of a byte: those of `mask`, after a rotation to the left.
    struct bits {
        uint32_t to, from;
        uint8_t  mask, rotation;
    };

    size_t group_bytes() const;
    void   convert(const quantized_rows & slice, const uint8_t * original) const;
    bool   learn_bits();
    bool   is_taken_back() const;
    void   unpack_group(const uint8_t * packed, uint8_t * original) const;

    template <typename Convert>
    void in_slices(const quantized_rows & matrix, Convert convert) const;

    ggml_backend_buffer_t m_buffer = nullptr;
    ggml_type             m_type   = GGML_TYPE_COUNT;
    void *                m_traits = nullptr;
    int64_t               m_rows   = 0;
    std::vector<run>      m_runs;
    std::vector<bits>     m_bits;
    std::vector<uint8_t>  m_flips; // by byte of the original group
};

// The layouts that the loaded CPU backend has for this processor, and that can be taken back; found at the first call, which
// needs no file. Throws std::bad_alloc then.
struct repack_layouts {
    ggml_backend_dev_t         device = nullptr;
    ggml_backend_buffer_t      buffer = nullptr; // of the buffer type: tensors in a layout are said to be in it
    std::vector<repack_layout> all;

    // The layout in which the backend would keep such a weight; nullptr where there is none.
    const repack_layout * of(const ggml_tensor & weight) const;
};

const repack_layouts & loaded_repack_layouts();
