// Indices that a client or its graph made, checked before a kernel takes them for addresses.
//
// ggml's kernels trust them, or assert on them, which ends the process. Most need no look between two nodes: what no
// node of the graph writes is looked at before the graph runs, and what ARGSORT or TOP_K made (the experts of an MoE
// model) is in range by the way it is made. Of libllama's 127 architectures none has others.

#include "index_checks.h"
#include "graph_memory.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <unordered_map>

bad_index g_bad_index;

// ---- where to look -----------------------------------------------------------------------------------

namespace {

// Whether `ids`, which this node wrote last, can only be below the limit: ARGSORT and TOP_K make nothing but indices,
// whatever they sort, and copies of them are just that.
bool are_sorted(const ggml_tensor * ids, const ggml_cgraph & graph, writes & written, int writer, int64_t limit) {
    while (writer >= 0) {
        const ggml_tensor & node = *graph.nodes[writer];
        if (!is_part_of_indices(*ids, node)) {
            return false;
        }
        switch (node.op) {
            case GGML_OP_ARGSORT:
            case GGML_OP_TOP_K:
                return node.src[0]->ne[0] <= limit;
            case GGML_OP_CONT:
            case GGML_OP_CPY:
            case GGML_OP_DUP:
                ids    = node.src[0];
                writer = written.last(memory_of(*ids), 0, writer);
                break;
            default:
                return false;
        }
    }
    return false;
}

bool same_elements(const ggml_tensor & a, const ggml_tensor & b) {
    return a.buffer == b.buffer && a.data == b.data && a.type == b.type && memcmp(a.ne, b.ne, sizeof(a.ne)) == 0 && memcmp(a.nb, b.nb, sizeof(a.nb)) == 0;
}

} // namespace

void index_checks::plan(ggml_cgraph & graph, const index_check * checks, int count, index_check_way with) {
    way = with;
    writes written(graph);
    // By address: where these indices were known to be below a limit last.
    std::unordered_map<const void *, place> known;
    for (int i = 0; i < count; i++) {
        const place check{graph.nodes[checks[i].node], int(checks[i].node), int(checks[i].source), int64_t(checks[i].limit)};
        const ggml_tensor & ids = *check.node->src[check.source];
        const auto found = known.find(ids.data);
        const bool is_known = found != known.end() && found->second.limit <= check.limit &&
                              same_elements(*found->second.node->src[found->second.source], ids);
        const int writer = written.last(memory_of(ids), is_known ? found->second.at : 0, check.at);
        if (writer == kNobody) {
            if (is_known) {
                continue;
            }
            before.push_back(check);
        } else if (!are_sorted(&ids, graph, written, writer, check.limit)) {
            between.push_back(check);
        }
        known[ids.data] = check;
    }
    if (way == index_check_way::nodes && !between.empty()) {
        insert_nodes(graph);
    }
}

// ---- looking -----------------------------------------------------------------------------------------

namespace {

// The elements of one tensor, in memory that can be read, strides as they are.
struct elements {
    const char *       data;
    const ggml_tensor & shape;
    int64_t             limit;
};

template <typename T>
T element(const char * at) {
    T value;
    memcpy(&value, at, sizeof(value));
    return value;
}

// U is T without its sign: a negative index is a large one.
template <typename U>
bool row_holds(const char * row, int64_t count, size_t stride, U limit) {
    U bad = 0;
    if (stride == sizeof(U)) {
        for (int64_t i = 0; i < count; i++) {
            bad |= U(element<U>(row + size_t(i) * sizeof(U)) >= limit);
        }
    } else {
        for (int64_t i = 0; i < count; i++) {
            bad |= U(element<U>(row + size_t(i) * stride) >= limit);
        }
    }
    return bad == 0;
}

template <typename T, typename U>
bool all_hold(const elements & all, int64_t (&at)[GGML_MAX_DIMS], int64_t & value) {
    const ggml_tensor & ids = all.shape;
    const U limit = U(std::min(all.limit, int64_t(std::numeric_limits<T>::max())));
    for (int64_t i3 = 0; i3 < ids.ne[3]; i3++) {
        for (int64_t i2 = 0; i2 < ids.ne[2]; i2++) {
            for (int64_t i1 = 0; i1 < ids.ne[1]; i1++) {
                const char * row = all.data + size_t(i3) * ids.nb[3] + size_t(i2) * ids.nb[2] + size_t(i1) * ids.nb[1];
                if (row_holds<U>(row, ids.ne[0], ids.nb[0], limit)) {
                    continue;
                }
                int64_t i0 = 0;
                while (element<U>(row + size_t(i0) * ids.nb[0]) < limit) {
                    i0++;
                }
                value = element<T>(row + size_t(i0) * ids.nb[0]);
                const int64_t found[] = {i0, i1, i2, i3};
                memcpy(at, found, sizeof(found));
                return false;
            }
        }
    }
    return true;
}

// Looks at elements, and records the first one that is wrong; `first` is where they are in the whole tensor.
bool look(const elements & all, const ggml_tensor * node, int source, const int64_t (&first)[GGML_MAX_DIMS]) {
    int64_t at[GGML_MAX_DIMS];
    int64_t value = 0;
    const bool hold = all.shape.type == GGML_TYPE_I64 ? all_hold<int64_t, uint64_t>(all, at, value)
                                                      : all_hold<int32_t, uint32_t>(all, at, value);
    if (hold) {
        return true;
    }
    g_bad_index.node   = node;
    g_bad_index.source = source;
    g_bad_index.value  = value;
    g_bad_index.limit  = all.limit;
    for (int dim = 0; dim < GGML_MAX_DIMS; dim++) {
        g_bad_index.at[dim] = first[dim] + at[dim];
    }
    g_bad_index.found.store(true, std::memory_order_relaxed);
    return false;
}

// Copies at most this much at once to look at it: strides may spread a few indices over all of a device's memory.
constexpr size_t kCopiedBytes = size_t(16) << 20;

} // namespace

bool index_checks::holds_here(const place & check) {
    const ggml_tensor & ids = *check.node->src[check.source];
    const int64_t first[GGML_MAX_DIMS] = {};
    return look({static_cast<const char *>(ids.data), ids, check.limit}, check.node, check.source, first);
}

bool index_checks::holds_there(const place & check) {
    const ggml_tensor & ids = *check.node->src[check.source];
    std::vector<char> copy;
    ggml_tensor part = ids;
    // Dimensions from here on are gone through one element at a time.
    int dims = GGML_MAX_DIMS;
    while (dims > 0 && ggml_nbytes(&part) > kCopiedBytes) {
        part.ne[--dims] = 1;
    }
    const size_t size = ggml_nbytes(&part);
    copy.resize(size);
    int64_t first[GGML_MAX_DIMS] = {};
    for (;;) {
        size_t offset = 0;
        for (int dim = 0; dim < GGML_MAX_DIMS; dim++) {
            offset += size_t(first[dim]) * ids.nb[dim];
        }
        ggml_backend_tensor_get(&ids, copy.data(), offset, size);
        if (!look({copy.data(), part, check.limit}, check.node, check.source, first)) {
            return false;
        }
        int dim = dims;
        while (dim < GGML_MAX_DIMS && ++first[dim] == ids.ne[dim]) {
            first[dim++] = 0;
        }
        if (dim == GGML_MAX_DIMS) {
            return true;
        }
    }
}

bool index_checks::holds(const place & check) const {
    return way == index_check_way::nodes ? holds_here(check) : holds_there(check);
}

// ---- running -----------------------------------------------------------------------------------------

// When a node starts, all threads are done with the ones before. The first thread looks, and asks the abort callback
// before the others can leave the node: none of them gets to the node that would use the index.
void index_checks::run_check_node(ggml_tensor *, int thread, int, void * check) {
    if (thread == 0) {
        holds_here(*static_cast<const place *>(check));
    }
}

void index_checks::insert_nodes(ggml_cgraph & graph) {
    static int32_t result; // no kernel writes it; an empty node would be skipped
    check_nodes.resize(between.size());
    all_nodes.reserve(size_t(graph.n_nodes) + between.size());
    size_t next = 0;
    for (int i = 0; i < graph.n_nodes; i++) {
        for (; next < between.size() && between[next].at == i; next++) {
            ggml_tensor & node = check_nodes[next];
            memset(&node, 0, sizeof(node));
            node.type  = GGML_TYPE_I32;
            node.op    = GGML_OP_CUSTOM;
            node.flags = GGML_TENSOR_FLAG_COMPUTE;
            node.data  = &result;
            for (int dim = 0; dim < GGML_MAX_DIMS; dim++) {
                node.ne[dim] = 1;
                node.nb[dim] = sizeof(result);
            }
            const ggml_custom_op_params params = {run_check_node, 1, &between[next]};
            memcpy(node.op_params, &params, sizeof(params));
            all_nodes.push_back(&node);
        }
        all_nodes.push_back(graph.nodes[i]);
    }
}

namespace {

// The graph with other nodes, or some of its own.
ggml_cgraph with_nodes(const ggml_cgraph & graph, ggml_tensor ** nodes, int count) {
    ggml_cgraph other = graph;
    other.nodes   = nodes;
    other.n_nodes = count;
    return other;
}

} // namespace

int index_checks::compute(ggml_backend_t backend, ggml_cgraph & graph, bool waits) const {
    g_bad_index.found.store(false, std::memory_order_relaxed);
    for (const place & check : before) {
        if (!holds(check)) {
            return kStatusBadIndex;
        }
    }
    if (between.empty()) {
        return int(waits ? ggml_backend_graph_compute(backend, &graph) : ggml_backend_graph_compute_async(backend, &graph));
    }
    if (way == index_check_way::parts) {
        return compute_parts(backend, graph);
    }
    ggml_cgraph checked = with_nodes(graph, const_cast<ggml_tensor **>(all_nodes.data()), int(all_nodes.size()));
    const int status = int(ggml_backend_graph_compute(backend, &checked));
    return g_bad_index.found.load(std::memory_order_relaxed) ? kStatusBadIndex : status;
}

int index_checks::compute_parts(ggml_backend_t backend, const ggml_cgraph & graph) const {
    int done = 0;
    for (size_t next = 0; next <= between.size(); next++) {
        const int until = next < between.size() ? between[next].at : graph.n_nodes;
        if (until > done) {
            ggml_cgraph part = with_nodes(graph, graph.nodes + done, until - done);
            const int status = int(ggml_backend_graph_compute(backend, &part));
            if (status != GGML_STATUS_SUCCESS) {
                return status;
            }
            done = until;
        }
        if (next < between.size() && !holds(between[next])) {
            return kStatusBadIndex;
        }
    }
    return GGML_STATUS_SUCCESS;
}
