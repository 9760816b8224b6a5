// What a model and its context take, by device.

#include "api.h"
#include "ggml-backend.h"
#include "llama-context.h"
#include "llama-ext.h"
#include "llama-model.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <exception>
#include <unordered_set>
#include <vector>

namespace {

struct breakdown_row {
    double buffer_type; // ggml_backend_buffer_type_t
    double device;      // ggml_backend_dev_t, 0: none
    double is_host;
    double model;       // bytes of weights
    double context;     // bytes of KV cache and recurrent state
    double compute;     // bytes of compute buffers
};

breakdown_row row_of(ggml_backend_buffer_type_t type, ggml_backend_dev_t device, double model, double context, double compute) {
    return {
        double(reinterpret_cast<uintptr_t>(type)),
        double(reinterpret_cast<uintptr_t>(device)),
        ggml_backend_buft_is_host(type) ? 1.0 : 0.0,
        model,
        context,
        compute,
    };
}

bool is_meta(ggml_backend_dev_t device) {
    return device != nullptr && ggml_backend_dev_type(device) == GGML_BACKEND_DEVICE_TYPE_META;
}

// The tensors of a buffer type of ggml's meta device, cut over devices. libllama counts them whole, whatever each device has.
class cut {
public:
    cut(const llama_model & model, ggml_backend_buffer_type_t type, size_t count)
        : model_bytes(count), context_bytes(count), model(model), type(type) {}

    void add_weights() {
        for (const auto & [name, tensor] : model.tensors_by_name) {
            add(tensor, model_bytes);
        }
    }

    // Caches and states are what a graph reads or writes that is no node and no weight.
    void add_context(ggml_cgraph * graph) {
        for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
            const ggml_tensor * node = ggml_graph_node(graph, i);
            add_leaf(node->view_src);
            for (const ggml_tensor * source : node->src) {
                if (source != nullptr) {
                    add_leaf(source->view_src != nullptr ? source->view_src : source);
                }
            }
        }
    }

    // Of the context's bytes what no graph showed: on each device whole.
    void add_rest(double whole) {
        for (double & bytes : context_bytes) {
            bytes += std::max(0.0, whole - seen_context);
        }
    }

    std::vector<double> model_bytes;
    std::vector<double> context_bytes;

private:
    void add_leaf(const ggml_tensor * tensor) {
        // Copies of a graph's inputs lie in compute buffers.
        if (tensor != nullptr && tensor->op == GGML_OP_NONE && tensor->buffer != nullptr && ggml_backend_buffer_get_usage(tensor->buffer) != GGML_BACKEND_BUFFER_USAGE_COMPUTE) {
            seen_context += add(tensor, context_bytes);
        }
    }

    // The bytes of the whole tensor; 0 when it lies elsewhere or was added before.
    double add(const ggml_tensor * tensor, std::vector<double> & bytes) {
        if (tensor->buffer == nullptr || ggml_backend_buffer_get_type(tensor->buffer) != type || !seen.insert(tensor).second) {
            return 0;
        }
        const double whole     = double(ggml_nbytes(tensor));
        const double alignment = double(ggml_backend_buft_get_alignment(type));
        llama_meta_device_get_split_state_userdata userdata = model.get_split_state_ud;
        const ggml_backend_meta_split_state state = llama_meta_device_get_split_state(tensor, &userdata);
        for (size_t device = 0; device < bytes.size(); device++) {
            double part = whole;
            if (state.axis >= 0 && state.axis < GGML_MAX_DIMS) {
                int64_t rows = 0;
                for (size_t segment = 0; segment < state.n_segments; segment++) {
                    rows += state.ne[segment * bytes.size() + device] * state.nr[segment];
                }
                part = whole * double(rows) / double(std::max<int64_t>(1, tensor->ne[state.axis]));
            }
            bytes[device] += std::ceil(part / alignment) * alignment;
        }
        return whole;
    }

    const llama_model &                     model;
    ggml_backend_buffer_type_t              type;
    double                                  seen_context = 0;
    std::unordered_set<const ggml_tensor *> seen;
};

// What ggml's meta device keeps on each device to add up partial sums (ggml-backend-meta.cpp, v0.5.0): a tensor for every step.
double sum_bytes(const llama_model & model, uint32_t ubatch, size_t count) {
    const double steps = std::ceil(std::log2(double(count)));
    const double rows  = double(ubatch) * std::max<double>(1, model.hparams.n_expert_used());
    return steps * rows * double(model.hparams.n_embd) * sizeof(float);
}

} // namespace

// Fills at most capacity rows, one a buffer type and device; returns how many there are, -1 when libllama refused. `devices`: those
// that the model's tensors are cut over, none where they are not; a new context only, whose graphs are still there.
API int ls_memory_breakdown(const llama_context * context, ggml_backend_dev_t const * devices, int device_count, breakdown_row * rows, int capacity) {
    try {
        std::vector<breakdown_row> found;
        for (const auto & [type, data] : llama_get_memory_breakdown(context)) {
            ggml_backend_dev_t device = ggml_backend_buft_get_device(type);
            if (!is_meta(device)) {
                found.push_back(row_of(type, device, double(data.model), double(data.context), double(data.compute)));
                continue;
            }
            const llama_model & model = context->get_model();
            cut parts(model, type, size_t(device_count));
            parts.add_weights();
            if (ggml_cgraph * graph = context->get_gf_res_reserve()->get_gf()) {
                parts.add_context(graph);
            }
            parts.add_rest(double(data.context));
            const double sums = sum_bytes(model, context->n_ubatch(), size_t(device_count));
            for (int i = 0; i < device_count; i++) {
                // Each device has a compute buffer of the whole size.
                found.push_back(row_of(
                    ggml_backend_dev_buffer_type(devices[i]), devices[i],
                    parts.model_bytes[size_t(i)], parts.context_bytes[size_t(i)], double(data.compute) + sums));
            }
        }
        std::copy_n(found.begin(), std::min(found.size(), size_t(capacity)), rows);
        return int(found.size());
    } catch (const std::exception &) {
        return -1;
    }
}
