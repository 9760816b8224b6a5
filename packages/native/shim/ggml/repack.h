#pragma once

#include "ggml-backend.h"
#include "ggml-impl.h"
#include "graph_memory.h"
#include "repack_layout.h"

#include <cstdint>
#include <map>
#include <memory>
#include <unordered_map>
#include <vector>

// Weights that lie in a layout of repack_layout.h, in the very memory that the client gave them. The client must never see
// that: whoever reads or writes memory of a buffer otherwise than by a graph calls original() for it first.
class packed_weights {
public:
    // Converts a weight unless it is converted. False when that cannot be, or happened in vain too often. Throws
    // std::bad_alloc, with the weight as it was.
    bool pack(ggml_backend_buffer_t buffer, const repack_layout & layout, const quantized_rows & matrix);

    // Converts all that has bytes there back. Allocates nothing.
    void original(const span & memory);

    // The buffer's contents do not matter any more.
    void forget(ggml_backend_buffer_t buffer);

    bool has_any(ggml_backend_buffer_t buffer) const;

    // Changes with every conversion.
    uint64_t generation() const { return m_generation; }

private:
    struct weight {
        const repack_layout * layout;
        quantized_rows        matrix;
        bool                  is_packed;
        int                   times_restored;

        uintptr_t end() const { return reinterpret_cast<uintptr_t>(matrix.data) + layout->bytes_of(matrix); }
    };
    // By address; they do not overlap. Those that are not packed tell how often they were.
    using weights_by_address = std::map<uintptr_t, weight>;

    void restore(weight & packed);
    static weights_by_address::iterator first_overlap(weights_by_address & weights, uintptr_t start);

    std::unordered_map<ggml_backend_buffer_t, weights_by_address> m_buffers;
    size_t                     m_count      = 0;
    uint64_t                   m_generation = 1;
    std::unique_ptr<uint8_t[]> m_staging;
};

// Of this process: a session's client, and no other, owns its buffers.
extern packed_weights g_packed_weights;

// Which weights of a graph may be packed while it runs, and which memory must be as the client knows it.
class repack_plan {
public:
    // Throws std::bad_alloc.
    void make(const ggml_cgraph & graph, std::vector<ggml_tensor> & tensors);

    // Converts what lies otherwise than the graph needs it: to be called before each run. Throws std::bad_alloc.
    void settle();

    // Whether nothing was converted since.
    bool is_settled() const { return !m_is_made || m_generation == g_packed_weights.generation(); }

private:
    struct weight {
        ggml_tensor *         tensor;
        const repack_layout * layout;
    };
    struct buffer_use {
        ggml_backend_buffer_t buffer;
        std::vector<weight>   weights;
        std::vector<span>     others;

        void part_overlapping();
    };

    bool                    m_is_made    = false;
    uint64_t                m_generation = 0;
    std::vector<buffer_use> m_buffers;
};
