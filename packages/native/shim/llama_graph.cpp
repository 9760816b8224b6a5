// How a model's graph falls on devices: read off libllama's scheduler.

#include "api.h"
#include "ggml-backend-impl.h"
#include "ggml-backend.h"
#include "llama-context.h"
#include "llama-memory.h"
#include "views.h"

#include <cstring>
#include <exception>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace {

// What a device has of a graph; doubles, as TypeScript reads them.
struct device_share {
    double pieces; // runs of nodes: the graph comes to the device so often
    double bytes;  // tensor data that goes to the device or comes from it
};

// Nodes that a device does not compute although what they read comes from it.
struct refused_op {
    double device; // its place in the list
    double op;     // ggml_op
    double kind;   // ggml_unary_op or ggml_glu_op, of operations that have kinds
    double type;   // ggml_type of the first source
    double count;
};

class survey {
public:
    survey(ggml_backend_sched_t sched, ggml_cgraph * graph, ggml_backend_dev_t const * devices, int device_count)
        : sched(sched), graph(graph), devices(devices, devices + device_count), shares(size_t(device_count)) {
        int before = -1;
        for (int i = 0; i < ggml_graph_n_nodes(graph); i++) {
            ggml_tensor * node = ggml_graph_node(graph, i);
            if (computes_nothing(node)) {
                continue;
            }
            const int place = place_of(node);
            if (place >= 0 && place != before) {
                shares[size_t(place)].pieces++;
            }
            before = place;
            for (ggml_tensor * source : node->src) {
                if (source != nullptr) {
                    look_at(node, place, source);
                }
            }
        }
    }

    // Place of the device in the list; -1: another one.
    int place_of(ggml_tensor * tensor) const {
        ggml_backend_t backend = ggml_backend_sched_get_tensor_backend(sched, tensor);
        if (backend != nullptr && ggml_backend_is_meta(backend)) {
            backend = ggml_backend_meta_simple_backend(backend, 0);
        }
        return place_of(backend != nullptr ? ggml_backend_get_device(backend) : nullptr);
    }

    int place_of(ggml_backend_dev_t device) const {
        for (size_t i = 0; i < devices.size(); i++) {
            if (devices[i] == device) {
                return int(i);
            }
        }
        return -1;
    }

    // Place of the device that has a tensor and does not support a node; of those that tensors are cut over, any will do. -1: none.
    int refuser_of(ggml_tensor * node, ggml_tensor * tensor, int place) const {
        ggml_backend_t backend = ggml_backend_sched_get_tensor_backend(sched, tensor);
        if (backend == nullptr || !ggml_backend_is_meta(backend)) {
            return ggml_backend_dev_supports_op(devices[size_t(place)], node) ? -1 : place;
        }
        for (size_t i = 0; i < ggml_backend_meta_n_backends(backend); i++) {
            ggml_backend_dev_t device = ggml_backend_get_device(ggml_backend_meta_simple_backend(backend, i));
            if (!ggml_backend_dev_supports_op(device, node)) {
                return place_of(device);
            }
        }
        return -1;
    }

    // The scheduler puts a copy in place of a source that lies elsewhere, and names it `BACKEND#NAME#0`; ggml-backend.cpp
    // ggml_backend_sched_split_graph. Returns the source itself, or nullptr when this is none.
    ggml_tensor * copied(ggml_tensor * node, const ggml_tensor * source) const {
        ggml_backend_t backend = ggml_backend_sched_get_tensor_backend(sched, node);
        const std::string prefix = std::string(backend != nullptr ? ggml_backend_name(backend) : "") + "#";
        const std::string name   = source->name;
        const size_t      end    = name.rfind('#');
        if (name.compare(0, prefix.size(), prefix) != 0 || end < prefix.size()) {
            return nullptr;
        }
        return ggml_graph_get_tensor(graph, name.substr(prefix.size(), end - prefix.size()).c_str());
    }

    void look_at(ggml_tensor * node, int place, ggml_tensor * source) {
        int from = -1;
        ggml_tensor * origin = copied(node, source);
        if (origin != nullptr) {
            from = place_of(origin);
            if (seen.insert(source).second) {
                count_bytes(from, source);
                count_bytes(place, source);
            }
        } else {
            // Of nodes in a row that a device refused, the first alone reads what lies there.
            const auto refuser = refused_by.find(source);
            from = refuser != refused_by.end() ? refuser->second : -1;
        }
        if (from < 0 || from == place || refused_by.find(node) != refused_by.end()) {
            return;
        }
        const int refuser = refuser_of(node, origin != nullptr ? origin : source, from);
        if (refuser >= 0) {
            refused_by[node] = refuser;
            note(refuser, node);
        }
    }

    void count_bytes(int place, const ggml_tensor * tensor) {
        if (place >= 0) {
            shares[size_t(place)].bytes += double(ggml_nbytes(tensor));
        }
    }

    void note(int place, const ggml_tensor * node) {
        const bool has_kind = node->op == GGML_OP_UNARY || node->op == GGML_OP_GLU;
        const double kind   = has_kind ? node->op_params[0] : 0;
        const double type   = node->src[0] != nullptr ? node->src[0]->type : node->type;
        for (refused_op & row : refused) {
            if (row.device == place && row.op == node->op && row.kind == kind && row.type == type) {
                row.count++;
                return;
            }
        }
        refused.push_back({double(place), double(node->op), kind, type, 1});
    }

    ggml_backend_sched_t            sched;
    ggml_cgraph *                   graph;
    std::vector<ggml_backend_dev_t> devices;
    std::vector<device_share>       shares;
    std::vector<refused_op>         refused;

private:
    std::unordered_set<const ggml_tensor *>      seen;
    std::unordered_map<const ggml_tensor *, int> refused_by;
};

} // namespace

// How the graph of one token, with a full cache, falls on devices: fills a share each, and at most `capacity` refused
// operations; returns how many of these there are, -1 when libllama makes no such graph. Allocates nothing on devices.
// Not for a context that computes afterwards: its scheduler has to make room for its graphs again.
API int ls_graph_survey(llama_context * context, ggml_backend_dev_t const * devices, int device_count, device_share * shares, refused_op * refused, int capacity) {
    try {
        llama_memory_t           memory = context->get_memory();
        llama_memory_context_ptr full   = memory != nullptr ? memory->init_full() : nullptr;
        ggml_cgraph * graph = context->graph_reserve(1, 1, 1, full.get(), true);
        if (graph == nullptr) {
            return -1;
        }
        const survey found(context->get_sched(), graph, devices, device_count);
        for (int i = 0; i < device_count; i++) {
            shares[i] = found.shares[size_t(i)];
        }
        for (size_t i = 0; i < found.refused.size() && i < size_t(capacity); i++) {
            refused[i] = found.refused[i];
        }
        return int(found.refused.size());
    } catch (const std::exception &) {
        return -1;
    }
}
