#pragma once

#include "ggml-backend.h"
#include "ggml-impl.h"

#include <atomic>
#include <cstdint>
#include <vector>

// What must hold of a node's source when the node starts: every element, I32 or I64, is at least 0 and below limit.
// Written by GraphCheck.ts.
struct index_check {
    uint32_t node;   // place in the graph's execution order
    uint32_t source;
    uint32_t limit;
};

// How a backend's graphs are stopped between two nodes, as index_checks needs it.
enum class index_check_way : int {
    parts = 0, // none of its own: the graph is run in parts, and what is in its memory is copied to be looked at
    nodes = 1, // the CPU backend: nodes of ours between the others, which raise the backend's abort callback
};

// gs_graph_compute's, beside ggml_status: an index is out of its range, and the node that would have used it did not run.
constexpr int kStatusBadIndex = 2;

// The index that stopped the graph that ran last. One graph runs at a time in a process that checks indices.
struct bad_index {
    const ggml_tensor * node   = nullptr;
    int                 source = 0;
    int64_t             value  = 0;
    int64_t             limit  = 0;
    int64_t             at[GGML_MAX_DIMS] = {};
    std::atomic<bool>   found{false};
};

extern bad_index g_bad_index;

// Contents of index tensors, looked at right before a node uses them, on every run.
class index_checks {
public:
    // Decides where each check is made; `checks` are in the order of their nodes. Throws std::bad_alloc.
    void plan(ggml_cgraph & graph, const index_check * checks, int count, index_check_way way);

    // Runs the graph of the plan, or any without one. Returns a ggml_status or kStatusBadIndex. Does not wait for its end where `waits` is false,
    // the backend can do so, and nothing has to be looked at meanwhile.
    int compute(ggml_backend_t backend, ggml_cgraph & graph, bool waits) const;

private:
    struct place {
        const ggml_tensor * node;
        int                 at; // of the node
        int                 source;
        int64_t             limit;
    };

    void insert_nodes(ggml_cgraph & graph);
    int  compute_parts(ggml_backend_t backend, const ggml_cgraph & graph) const;

    bool holds(const place & check) const;
    static bool holds_here(const place & check);
    static bool holds_there(const place & check);
    static void run_check_node(ggml_tensor * dst, int thread, int thread_count, void * check);

    index_check_way     way = index_check_way::nodes;
    std::vector<place>  before;  // once, before the graph runs: none of its nodes writes these before they are used
    std::vector<place>  between; // right before their nodes, which are in order
    // For `nodes`: the graph with a node of ours for each of `between`.
    std::vector<ggml_tensor>   check_nodes;
    std::vector<ggml_tensor *> all_nodes;
};
