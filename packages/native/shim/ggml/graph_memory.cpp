#include "graph_memory.h"

span memory_of(const ggml_tensor & tensor) {
    const uintptr_t start = reinterpret_cast<uintptr_t>(tensor.data);
    return {tensor.buffer, start, start + ggml_nbytes(&tensor)};
}

bool runs(const ggml_tensor & node) {
    return !ggml_op_is_empty(node.op) && (node.flags & GGML_TENSOR_FLAG_COMPUTE) != 0;
}

bool is_part_of_indices(const ggml_tensor & part, const ggml_tensor & node) {
    if (node.type != GGML_TYPE_I32 || part.type != GGML_TYPE_I32 || !ggml_is_contiguous(&node)) {
        return false;
    }
    if ((&part != &node && part.view_src != &node) || !memory_of(node).contains(memory_of(part))) {
        return false;
    }
    size_t offset = size_t(static_cast<const char *>(part.data) - static_cast<const char *>(node.data));
    for (int dim = 0; dim < GGML_MAX_DIMS; dim++) {
        offset |= part.ne[dim] > 1 ? part.nb[dim] : 0;
    }
    return offset % sizeof(int32_t) == 0;
}

namespace {

// Optimizers write their sources as well, and nobody indexes after one: they are taken to write everything.
bool is_optimizer(const ggml_tensor & node) {
    return node.op == GGML_OP_OPT_STEP_ADAMW || node.op == GGML_OP_OPT_STEP_SGD;
}

} // namespace

writes::writes(const ggml_cgraph & graph) : steps_left(64 * (int64_t(graph.n_nodes) + 1024)) {
    nodes.reserve(size_t(graph.n_nodes));
    for (int i = 0; i < graph.n_nodes; i++) {
        const ggml_tensor & node = *graph.nodes[i];
        const bool is_written = runs(node);
        nodes.push_back({is_written ? memory_of(node) : span{}, is_written && is_optimizer(node)});
    }
}

int writes::last(const span & memory, int from, int until) {
    for (int i = until - 1; i >= from; i--) {
        if (steps_left-- <= 0) {
            return kUnknown;
        }
        if (nodes[size_t(i)].everything || nodes[size_t(i)].result.overlaps(memory)) {
            return i;
        }
    }
    return kNobody;
}
