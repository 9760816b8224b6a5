// Weights in the layouts of the CPU backend's own buffer type, in which llama.cpp keeps them when it computes in its own
// process. A client of the protocol cannot choose that buffer type, so the server converts where a graph shows what a tensor
// is for.

#include "repack.h"
#include "api.h"
#include "ggml-backend-impl.h"

#include <algorithm>
#include <new>

packed_weights g_packed_weights;

// ---- the weights of this process -------------------------------------------------------------------------

namespace {

// A weight that was converted back so often is used in ways that take turns: it stays as it is.
constexpr int kMaxTimesRestored = 2;

// What is kept of each takes memory that no client is charged for. The largest models have some 10,000.
constexpr size_t kMaxWeights = 65536;

} // namespace

packed_weights::weights_by_address::iterator packed_weights::first_overlap(weights_by_address & weights, uintptr_t start) {
    auto next = weights.upper_bound(start);
    if (next != weights.begin() && std::prev(next)->second.end() > start) {
        --next;
    }
    return next;
}

bool packed_weights::pack(ggml_backend_buffer_t buffer, const repack_layout & layout, const quantized_rows & matrix) {
    const uintptr_t start = reinterpret_cast<uintptr_t>(matrix.data);
    const uintptr_t end   = start + layout.bytes_of(matrix);
    weights_by_address & weights = m_buffers[buffer];
    auto found = first_overlap(weights, start);
    const bool is_same = found != weights.end() && found->first == start && found->second.layout == &layout &&
                         found->second.matrix.rows == matrix.rows && found->second.matrix.row_blocks == matrix.row_blocks;
    if (!is_same) {
        int times_restored = 0;
        while (found != weights.end() && found->first < end) {
            if (found->second.is_packed) {
                restore(found->second);
            }
            times_restored = std::max(times_restored, found->second.times_restored);
            found = weights.erase(found);
            m_count--;
        }
        if (m_count >= kMaxWeights) {
            return false;
        }
        found = weights.emplace(start, weight{&layout, matrix, false, times_restored}).first;
        m_count++;
    }
    weight & entry = found->second;
    if (entry.is_packed) {
        return true;
    }
    if (entry.times_restored >= kMaxTimesRestored) {
        return false;
    }
    if (m_staging == nullptr) {
        m_staging.reset(new uint8_t[kRepackStagingBytes]);
    }
    layout.pack(matrix, m_staging.get());
    entry.is_packed = true;
    m_generation++;
    return true;
}

void packed_weights::restore(weight & packed) {
    packed.layout->unpack(packed.matrix, m_staging.get());
    packed.is_packed = false;
    packed.times_restored++;
    m_generation++;
}

void packed_weights::original(const span & memory) {
    const auto buffer = m_buffers.find(memory.buffer);
    if (buffer == m_buffers.end()) {
        return;
    }
    weights_by_address & weights = buffer->second;
    for (auto at = first_overlap(weights, memory.start); at != weights.end() && at->first < memory.end; ++at) {
        if (at->second.is_packed) {
            restore(at->second);
        }
    }
}

void packed_weights::forget(ggml_backend_buffer_t buffer) {
    const auto found = m_buffers.find(buffer);
    if (found == m_buffers.end()) {
        return;
    }
    m_count -= found->second.size();
    m_buffers.erase(found);
    m_generation++;
}

bool packed_weights::has_any(ggml_backend_buffer_t buffer) const {
    return m_buffers.find(buffer) != m_buffers.end();
}

// ---- what a graph does with its tensors --------------------------------------------------------------------

namespace {

// What a node's kernel may touch of a tensor: those that take rows for dense touch this much of the last one, whatever the
// strides say.
span touched_by_kernels(const ggml_tensor & tensor) {
    span memory = memory_of(tensor);
    const size_t dense  = ggml_row_size(tensor.type, tensor.ne[0]);
    const size_t blocks = size_t(tensor.ne[0] / ggml_blck_size(tensor.type));
    const size_t row    = ggml_blck_size(tensor.type) == 1 ? ggml_type_size(tensor.type) + (blocks - 1) * tensor.nb[0] : blocks * tensor.nb[0];
    if (memory.end > memory.start && dense > row) {
        memory.end += dense - row;
    }
    return memory;
}

quantized_rows rows_of(const ggml_tensor & tensor) {
    return {static_cast<uint8_t *>(tensor.data), tensor.ne[0] / ggml_blck_size(tensor.type), ggml_nrows(&tensor)};
}

bool has_dense_rows(const ggml_tensor & tensor) {
    return tensor.nb[0] == ggml_type_size(tensor.type) && tensor.nb[1] == tensor.nb[0] * size_t(tensor.ne[0]);
}

// Whether no token has an expert twice. The layouts' kernel has room for each expert once a token, and writes beyond it
// otherwise (v0.5.0; the plain one has room for all).
bool has_distinct_experts(const ggml_cgraph & graph, writes & written, int node) {
    const ggml_tensor & ids = *graph.nodes[node]->src[2];
    const int writer = written.last(memory_of(ids), 0, node);
    if (writer < 0) {
        return false;
    }
    const ggml_tensor & sorted = *graph.nodes[writer];
    if ((sorted.op != GGML_OP_ARGSORT && sorted.op != GGML_OP_TOP_K) || !is_part_of_indices(ids, sorted)) {
        return false;
    }
    // Side by side in one row each.
    const size_t offset = size_t(static_cast<const char *>(ids.data) - static_cast<const char *>(sorted.data)) % sorted.nb[1];
    return ids.nb[0] == sizeof(int32_t) && ids.nb[1] == sorted.nb[1] && ids.ne[2] == 1 && ids.ne[3] == 1 &&
           offset + size_t(ids.ne[0]) * sizeof(int32_t) <= sorted.nb[1];
}

// Goes through what a graph's kernels touch.
class graph_reader {
public:
    graph_reader(const ggml_cgraph & graph, std::vector<ggml_tensor> & tensors) : graph(graph), tensors(tensors), uses(tensors.size()) {
    }

    // For each tensor that a kernel touches: calls back with its layout, or nullptr for one that must be as it is.
    template <typename Use>
    void read(Use use) {
        for (int i = 0; i < graph.n_nodes; i++) {
            const ggml_tensor * node = graph.nodes[i];
            if (!runs(*node)) {
                continue;
            }
            touch(node, kPlain);
            for (int s = 0; s < GGML_MAX_SRC; s++) {
                if (node->src[s] != nullptr) {
                    touch(node->src[s], s == 0 && takes_packed(i) ? kPacked : kPlain);
                }
            }
        }
        for (size_t i = 0; i < uses.size(); i++) {
            if (uses[i] != kNone) {
                use(tensors[i], uses[i] == kPacked ? layouts.of(tensors[i]) : nullptr);
            }
        }
    }

private:
    enum use : uint8_t { kNone, kPacked, kPlain };

    void touch(const ggml_tensor * tensor, use how) {
        use & known = uses[size_t(tensor - tensors.data())];
        known = std::max(known, how);
    }

    // Whether the backend computes this node with its first source in a layout, as it would without.
    bool takes_packed(int at) {
        const ggml_tensor & node = *graph.nodes[at];
        if ((node.op != GGML_OP_MUL_MAT && node.op != GGML_OP_MUL_MAT_ID) || !is_weight(*node.src[0])) {
            return false;
        }
        const ggml_tensor & input = *node.src[1];
        // The kernels quantize rows together that they take to lie side by side.
        if (input.type != GGML_TYPE_F32 || !has_dense_rows(input) || !ggml_is_contiguous(&node) || input.ne[3] != 1) {
            return false;
        }
        if (!ggml_backend_buffer_is_host(input.buffer) || !is_supported(node)) {
            return false;
        }
        if (node.op == GGML_OP_MUL_MAT) {
            return true;
        }
        if (written == nullptr) {
            written.reset(new writes(graph));
        }
        return node.src[2]->ne[1] == input.ne[2] && has_distinct_experts(graph, *written, at);
    }

    bool is_weight(const ggml_tensor & tensor) const {
        if (tensor.op != GGML_OP_NONE || tensor.view_src != nullptr || !ggml_is_quantized(tensor.type)) {
            return false;
        }
        if (tensor.buffer == nullptr || !ggml_backend_buffer_is_host(tensor.buffer) || !ggml_is_contiguous(&tensor)) {
            return false;
        }
        const size_t alignment = ggml_backend_buft_get_alignment(ggml_backend_buffer_get_type(layouts.buffer));
        const repack_layout * layout = reinterpret_cast<uintptr_t>(tensor.data) % alignment == 0 ? layouts.of(tensor) : nullptr;
        return layout != nullptr && layout->takes(rows_of(tensor)) && tensor.ne[1] % layout->group_rows() == 0;
    }

    bool is_supported(const ggml_tensor & node) const {
        ggml_tensor weight = *node.src[0];
        ggml_tensor asked  = node;
        weight.buffer = layouts.buffer;
        asked.src[0]  = &weight;
        return ggml_backend_dev_supports_op(layouts.device, &asked);
    }

    const repack_layouts &     layouts = loaded_repack_layouts();
    const ggml_cgraph &        graph;
    std::vector<ggml_tensor> & tensors;
    std::vector<use>           uses;
    std::unique_ptr<writes>    written;
};

} // namespace

void repack_plan::make(const ggml_cgraph & graph, std::vector<ggml_tensor> & tensors) {
    if (loaded_repack_layouts().all.empty()) {
        return;
    }
    const auto use_of = [this](ggml_backend_buffer_t buffer) -> buffer_use & {
        for (buffer_use & known : m_buffers) {
            if (known.buffer == buffer) {
                return known;
            }
        }
        m_buffers.push_back({buffer, {}, {}});
        return m_buffers.back();
    };
    graph_reader(graph, tensors).read([&](ggml_tensor & tensor, const repack_layout * layout) {
        if (tensor.buffer == nullptr) {
            return;
        }
        buffer_use & use = use_of(tensor.buffer);
        if (layout != nullptr) {
            use.weights.push_back({&tensor, layout});
        } else {
            use.others.push_back(touched_by_kernels(tensor));
        }
    });
    for (buffer_use & use : m_buffers) {
        use.part_overlapping();
    }
    m_is_made = true;
}

// A weight that shares memory with anything else that the graph touches stays as it is.
void repack_plan::buffer_use::part_overlapping() {
    if (weights.empty()) {
        return;
    }
    struct range {
        span   memory;
        size_t weight; // or kOther
    };
    constexpr size_t kOther = SIZE_MAX;
    std::vector<range> ranges;
    ranges.reserve(weights.size() + others.size());
    for (size_t i = 0; i < weights.size(); i++) {
        ranges.push_back({memory_of(*weights[i].tensor), i});
    }
    for (const span & other : others) {
        ranges.push_back({other, kOther});
    }
    std::sort(ranges.begin(), ranges.end(), [](const range & a, const range & b) { return a.memory.start < b.memory.start; });
    std::vector<bool> is_shared(weights.size());
    const auto share = [&](const range & one) {
        if (one.weight != kOther) {
            is_shared[one.weight] = true;
        }
    };
    // Who overlaps any before it overlaps the one of those that ends last.
    const range * longest = nullptr;
    for (const range & next : ranges) {
        if (longest != nullptr && next.memory.overlaps(longest->memory)) {
            share(next);
            share(*longest);
        }
        if (longest == nullptr || next.memory.end > longest->memory.end) {
            longest = &next;
        }
    }
    size_t kept = 0;
    for (size_t i = 0; i < weights.size(); i++) {
        if (is_shared[i]) {
            others.push_back(memory_of(*weights[i].tensor));
        } else {
            weights[kept++] = weights[i];
        }
    }
    weights.resize(kept);
}

void repack_plan::settle() {
    if (is_settled()) {
        return;
    }
    for (const buffer_use & use : m_buffers) {
        if (g_packed_weights.has_any(use.buffer)) {
            for (const span & other : use.others) {
                g_packed_weights.original(other);
            }
        }
        for (const weight & weight : use.weights) {
            ggml_tensor & tensor = *weight.tensor;
            const bool is_packed = g_packed_weights.pack(use.buffer, *weight.layout, rows_of(tensor));
            tensor.buffer = is_packed ? loaded_repack_layouts().buffer : use.buffer;
            tensor.extra  = is_packed ? weight.layout->traits() : nullptr;
        }
    }
    m_generation = g_packed_weights.generation();
}

// ---- for TypeScript ------------------------------------------------------------------------------------------

// Finds the layouts, which later takes no file. Returns how many types have one, and their numbers, at most `capacity`.
API int gs_repack_types(int32_t * types, int capacity) {
    int count = 0;
    try {
        for (const repack_layout & layout : loaded_repack_layouts().all) {
            const bool is_new = std::find(types, types + count, int32_t(layout.type())) == types + count;
            if (is_new && count < capacity) {
                types[count++] = int32_t(layout.type());
            }
        }
    } catch (const std::bad_alloc &) {
    }
    return count;
}

// From here on these bytes of a buffer are what its client knows, until a graph runs.
API void gs_repack_original(ggml_backend_buffer_t buffer, double address, double size) {
    const uintptr_t start = uintptr_t(address);
    g_packed_weights.original({buffer, start, start + uintptr_t(size)});
}

// The buffer's contents are gone, or no client's any more.
API void gs_repack_forget(ggml_backend_buffer_t buffer) {
    g_packed_weights.forget(buffer);
}
