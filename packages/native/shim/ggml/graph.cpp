// Graphs: built from records in one call, and taken apart into records in one.
//
// Nothing here validates: callers in TypeScript have checked every number before it arrives.

#include "api.h"
#include "ggml-backend.h"
#include "ggml-impl.h"
#include "index_checks.h"
#include "remote_device.h"
#include "repack.h"
#include "tensor_record.h"

#include <algorithm>
#include <cstring>
#include <new>
#include <unordered_set>
#include <vector>

// ---- built from records ----------------------------------------------------------------------------

namespace {

struct built_graph {
    ggml_context *            context = nullptr;
    ggml_cgraph *             graph   = nullptr;
    std::vector<ggml_tensor>  tensors;
    index_checks              checks;
    repack_plan               repack;

    ~built_graph() {
        if (context != nullptr) {
            ggml_free(context);
        }
    }
};

// How often nodes name each record as a source.
std::vector<int32_t> count_uses(const uint32_t * nodes, int node_count, const tensor_record * records, int record_count) {
    std::vector<int32_t> uses;
    uses.resize(size_t(record_count));
    for (int i = 0; i < node_count; i++) {
        for (const uint64_t source : records[nodes[i] - 1].src) {
            if (source != 0) {
                uses[size_t(source - 1)]++;
            }
        }
    }
    return uses;
}

} // namespace

// Builds a graph of node_count nodes. `nodes` holds 1-based indexes into the records. In the records
// `src` and `view_src` are 1-based record indexes (0 none), `buffer` and `data` native addresses; a
// record whose id is 0 is not used and stays empty. Returns 0 when memory ran out.
API built_graph * gs_graph_build(const uint32_t * nodes, int node_count, const tensor_record * records, int record_count) {
    built_graph * built = nullptr;
    std::vector<int32_t> uses;
    try {
        built = new built_graph();
        built->tensors.resize(size_t(record_count));
        uses = count_uses(nodes, node_count, records, record_count);
    } catch (const std::bad_alloc &) {
        delete built;
        return nullptr;
    }
    for (int i = 0; i < record_count; i++) {
        const tensor_record & record = records[i];
        ggml_tensor & tensor = built->tensors[size_t(i)];
        if (record.id == 0) {
            memset(&tensor, 0, sizeof(tensor));
            continue;
        }
        tensor_from_record(record, tensor);
        for (int s = 0; s < GGML_MAX_SRC; s++) {
            tensor.src[s] = record.src[s] != 0 ? &built->tensors[size_t(record.src[s] - 1)] : nullptr;
        }
        tensor.view_src = record.view_src != 0 ? &built->tensors[size_t(record.view_src - 1)] : nullptr;
    }
    ggml_init_params params{};
    params.mem_size = ggml_graph_overhead_custom(size_t(node_count), false) + 1024;
    params.no_alloc = true;
    built->context  = ggml_init(params);
    if (built->context == nullptr) {
        delete built;
        return nullptr;
    }
    built->graph = ggml_new_graph_custom(built->context, size_t(node_count), false);
    built->graph->n_nodes = node_count;
    for (int i = 0; i < node_count; i++) {
        const uint32_t index = nodes[i] - 1;
        ggml_tensor * node = &built->tensors[index];
        built->graph->nodes[i] = node;
        // The same node listed twice is found again, not inserted again.
        const size_t slot = ggml_hash_find(&built->graph->visited_hash_set, node);
        if (slot != GGML_HASHSET_FULL && !ggml_bitset_get(built->graph->visited_hash_set.used, slot)) {
            ggml_hash_insert(&built->graph->visited_hash_set, node);
        }
        // Backends fuse an operation into its consumer, and leave out its result, only when this count says nobody else
        // reads it: 0 is not known, and never less than is true.
        const int32_t told = records[index].use_count;
        built->graph->use_counts[slot] = told == 0 ? 0 : std::max(told, uses[index]);
    }
    return built;
}

// Index of the first node that would run and that the backend's device has no kernel for; -1 when there
// is none. Running such a node aborts the process.
API int gs_graph_unsupported(ggml_backend_t backend, const built_graph * built) {
    for (int i = 0; i < built->graph->n_nodes; i++) {
        const ggml_tensor * node = built->graph->nodes[i];
        if ((node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0 && !ggml_backend_supports_op(backend, node)) {
            return i;
        }
    }
    return -1;
}

// Whether a device has a kernel for each node: clears the bytes of those that it has none for, and looks only at nodes whose
// byte is not 0.
API void gs_graph_supports(ggml_backend_dev_t device, const built_graph * built, uint8_t * answers) {
    for (int i = 0; i < built->graph->n_nodes; i++) {
        if (answers[i] != 0 && !ggml_backend_dev_supports_op(device, built->graph->nodes[i])) {
            answers[i] = 0;
        }
    }
}

// Has indices looked at on every run, right before their nodes; once, for a graph without checks. `way` is an
// index_check_way that suits the backend, which for `nodes` must have an abort flag. 0 when memory ran out.
API int gs_graph_check_indices(built_graph * built, const index_check * checks, int count, int way) {
    try {
        built->checks.plan(*built->graph, checks, count, index_check_way(way));
        return 1;
    } catch (const std::bad_alloc &) {
        return 0;
    }
}

// Lets the graph, which runs on the CPU, have its weights in layouts that are faster (repack.h); once, before its indices are
// checked. 0 when memory ran out.
API int gs_graph_repack(built_graph * built) {
    try {
        built->repack.make(*built->graph, built->tensors);
        return 1;
    } catch (const std::bad_alloc &) {
        return 0;
    }
}

// Has the memory of such a graph as it needs it: before each run. 0 when memory ran out.
API int gs_graph_settle(built_graph * built) {
    try {
        built->repack.settle();
        return 1;
    } catch (const std::bad_alloc &) {
        return 0;
    }
}

// The index that ended the last run: its node's place among the records and op, its source, the value and the limit, and
// the value's place in the source.
API void gs_graph_bad_index(const built_graph * built, int64_t * out) {
    out[0] = g_bad_index.node - built->tensors.data();
    out[1] = g_bad_index.node->op;
    out[2] = g_bad_index.source;
    out[3] = g_bad_index.value;
    out[4] = g_bad_index.limit;
    memcpy(out + 5, g_bad_index.at, sizeof(g_bad_index.at));
}

// Runs the graph; without `waits` it may still run when this returns, until gs_backend_synchronize, and must not be freed before. The
// result is a ggml_status (0 success, 1 aborted, -1 failed, -2 no memory), or 2 for an index that is out of its range
// (gs_graph_bad_index).
API int gs_graph_compute(ggml_backend_t backend, built_graph * built, int waits) {
    if (!built->repack.is_settled()) {
        return int(GGML_STATUS_FAILED);
    }
    try {
        return built->checks.compute(backend, *built->graph, waits != 0);
    } catch (...) {
        return int(GGML_STATUS_FAILED);
    }
}

API void gs_graph_free(built_graph * built) {
    delete built;
}

// ---- flattening ------------------------------------------------------------------------------------

namespace {

struct flat_graph {
    std::vector<uint64_t>      nodes;
    std::vector<tensor_record> records;
};

flat_graph g_flat;

void flatten_tensor(const ggml_tensor * root, const ggml_cgraph * graph, const remote_server & server, std::unordered_set<const ggml_tensor *> & seen) {
    // Own stack: a deep graph must not overflow the thread's.
    struct frame {
        const ggml_tensor * tensor;
        int                 next;
    };
    static thread_local std::vector<frame> stack;
    stack.clear();
    if (root == nullptr || !seen.insert(root).second) {
        return;
    }
    stack.push_back({root, 0});
    while (!stack.empty()) {
        frame & top = stack.back();
        if (top.next <= GGML_MAX_SRC) {
            const ggml_tensor * child = top.next < GGML_MAX_SRC ? top.tensor->src[top.next] : top.tensor->view_src;
            top.next++;
            if (child != nullptr && seen.insert(child).second) {
                stack.push_back({child, 0});
            }
            continue;
        }
        g_flat.records.emplace_back();
        tensor_record & record = g_flat.records.back();
        record_from_tensor(top.tensor, server, record);
        if (server.dialect.has_use_counts) {
            const size_t slot = ggml_hash_find(&graph->visited_hash_set, top.tensor);
            if (slot != GGML_HASHSET_FULL && ggml_bitset_get(graph->visited_hash_set.used, slot)) {
                record.use_count = graph->use_counts[slot];
            }
        }
        stack.pop_back();
    }
}

// Backends skip the others (ggml-backend.cpp, ggml-cpu.c, v0.5.0): where tensors are cut, those of which a device has no part. Older
// servers know no flag, and some kernels end them when there is nothing to compute.
bool is_computed(const ggml_tensor * node) {
    return (node->flags & GGML_TENSOR_FLAG_COMPUTE) != 0 && !ggml_is_empty(node);
}

} // namespace

// Flattens a graph for the server of a device: ids of nodes that compute something in execution order, and a record for every tensor that
// they reach, sources before users (the order of GRAPH_COMPUTE, all protocol versions). counts receives the
// number of nodes and of records; the arrays stay valid until the next call. Returns -1, or the operation of
// a node that the server has no number for: the graph must not be sent then.
API int gs_graph_flatten(const ggml_cgraph * graph, ggml_backend_dev_t device, uint32_t * counts) {
    const remote_server & server = server_of(device);
    int missing = -1;
    static std::unordered_set<const ggml_tensor *> seen;
    seen.clear();
    g_flat.nodes.clear();
    g_flat.records.clear();
    for (int i = 0; i < graph->n_nodes; i++) {
        if (!is_computed(graph->nodes[i])) {
            continue;
        }
        g_flat.nodes.push_back(reinterpret_cast<uint64_t>(graph->nodes[i]));
        flatten_tensor(graph->nodes[i], graph, server, seen);
        if (missing < 0 && !server.dialect.has_number(graph->nodes[i])) {
            missing = int(graph->nodes[i]->op);
        }
    }
    counts[0] = uint32_t(g_flat.nodes.size());
    counts[1] = uint32_t(g_flat.records.size());
    return missing;
}

API void * gs_flat_nodes() {
    return g_flat.nodes.data();
}

API void * gs_flat_records() {
    return g_flat.records.data();
}
