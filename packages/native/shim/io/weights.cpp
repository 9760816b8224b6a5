// Hashes of weights, and files of weights straight into memory.

#include "api.h"
#include "fnv.h"
#include "populate.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#endif

namespace {

// Memory is populated in pieces of this size, each right before it is read into: it is still in the processor's cache then.
constexpr size_t kFreshChunk = size_t(256) << 10;

// Of each file that is hashed at the same time.
constexpr size_t kHashChunk = size_t(256) << 10;

// pread of exactly size bytes; fewer only at the end of the file. Negative errno on failure.
double read_exactly(int fd, char * target, double offset, size_t size) {
    size_t done = 0;
    while (done < size) {
        const ssize_t got = pread(fd, target + done, size - done, off_t(offset) + off_t(done));
        if (got > 0) {
            done += size_t(got);
        } else if (got == 0) {
            break;
        } else if (errno != EINTR) {
            return -double(errno);
        }
    }
    return double(done);
}

} // namespace

// Reads size bytes of a file from offset on into memory that may be fresh. Returns how many there were: fewer only at the end
// of the file.
API double io_read_file(int fd, void * target, double offset, double size) {
    double done = 0;
    while (done < size) {
        char * at = static_cast<char *>(target) + size_t(done);
        const size_t part = size_t(std::min(size - done, double(kFreshChunk)));
        if (size >= double(kFreshChunk)) {
            populate(at, part);
        }
        const double got = read_exactly(fd, at, offset + done, part);
        if (got < 0) {
            return got;
        }
        done += got;
        if (got < double(part)) {
            break;
        }
    }
    return done;
}

// FNV-1a-64 of count blocks of memory: into hashes, low word first.
API void io_hash(int count, const double * addresses, const double * sizes, uint64_t * hashes) {
    fnv_lanes lanes;
    int next = 0;
    lanes.run([&](fnv_lane & lane) {
        if (next == count) {
            return false;
        }
        lane = {reinterpret_cast<const uint8_t *>(uintptr_t(addresses[next])), size_t(sizes[next]), kFnvBasis, &hashes[next]};
        next++;
        return true;
    });
}

namespace {

// A part of a file that is to be hashed.
struct file_part {
    int    fd;
    double offset;
    double size;
};

std::atomic<bool> g_hash_stops{false};
std::atomic<bool> g_hash_runs{false};
// Never destroyed: a process that ends does not wait for it.
std::thread &     g_hasher = *new std::thread();

// Nothing else waits for it, on whatever core.
void only_when_idle() {
#ifdef __linux__
    sched_param none{};
    sched_setscheduler(0, SCHED_IDLE, &none);
#ifdef SYS_ioprio_set
    constexpr int kOfThread = 1;
    constexpr int kIdleClass = 3 << 13;
    syscall(SYS_ioprio_set, kOfThread, 0, kIdleClass);
#endif
#endif
}

// One write a line: lines of several processes do not mix. False when the disk is full.
bool write_line(int output, uint64_t hash, double size, const std::string & name) {
    char text[64];
    snprintf(text, sizeof(text), "%016llx %.0f ", static_cast<unsigned long long>(hash), size);
    std::string line = text + name;
    const uint64_t check = fnv_of(reinterpret_cast<const uint8_t *>(line.data()), line.size());
    snprintf(text, sizeof(text), " %016llx\n", static_cast<unsigned long long>(check));
    line += text;
    // A part of a line is one that no reader takes.
    return write(output, line.data(), line.size()) == ssize_t(line.size());
}

// Parts of files, of which kLanes are read in turn.
class file_hasher {
  public:
    explicit file_hasher(const std::vector<file_part> & parts) : parts_(parts) {
        for (size_t lane = 0; lane < fnv_lanes::kLanes; lane++) {
            blocks_.emplace_back(kHashChunk);
        }
    }

    // Calls finished with each part's index and hash, in any order; stops when that returns false, or when a file cannot be read.
    template <typename Finished> bool run(const std::atomic<bool> & stops, Finished finished) {
        std::vector<open_part> open;
        for (size_t next = 0;;) {
            while (open.size() < fnv_lanes::kLanes && next < parts_.size()) {
                open.push_back({next++, 0, kFnvBasis});
            }
            if (open.empty()) {
                return true;
            }
            if (stops.load() || !advance(open)) {
                return false;
            }
            for (size_t lane = open.size(); lane-- > 0;) {
                const open_part & part = open[lane];
                if (part.done < parts_[part.index].size) {
                    continue;
                }
                if (!finished(part.index, part.hash)) {
                    return false;
                }
                open.erase(open.begin() + long(lane));
            }
        }
    }

  private:
    struct open_part {
        size_t   index;
        double   done;
        uint64_t hash;
    };

    bool advance(std::vector<open_part> & open) {
        size_t sizes[fnv_lanes::kLanes] = {};
        for (size_t lane = 0; lane < open.size(); lane++) {
            const file_part & part = parts_[open[lane].index];
            sizes[lane] = size_t(std::min(part.size - open[lane].done, double(kHashChunk)));
            if (read_exactly(part.fd, blocks_[lane].data(), part.offset + open[lane].done, sizes[lane]) != double(sizes[lane])) {
                return false;
            }
            open[lane].done += double(sizes[lane]);
        }
        size_t next = 0;
        fnv_lanes().run([&](fnv_lane & lane) {
            if (next == open.size()) {
                return false;
            }
            lane = {reinterpret_cast<const uint8_t *>(blocks_[next].data()), sizes[next], open[next].hash, &open[next].hash};
            next++;
            return true;
        });
        return true;
    }

    const std::vector<file_part> & parts_;
    std::vector<std::vector<char>> blocks_;
};

std::vector<file_part> parts_of(int count, const int32_t * fds, const double * offsets, const double * sizes) {
    std::vector<file_part> parts;
    for (int i = 0; i < count; i++) {
        parts.push_back({fds[i], offsets[i], sizes[i]});
    }
    return parts;
}

} // namespace

// FNV-1a-64 of count parts of files, into hashes, low word first. 1; 0 when a part cannot be read.
API int io_hash_files(int count, const int32_t * fds, const double * offsets, const double * sizes, uint64_t * hashes) {
    static const std::atomic<bool> never{false};
    const std::vector<file_part> parts = parts_of(count, fds, offsets, sizes);
    return file_hasher(parts).run(never, [hashes](size_t index, uint64_t hash) {
        hashes[index] = hash;
        return true;
    });
}

// Whether some hashing runs beside.
API int io_is_hashing() {
    return g_hash_runs.load();
}

// Ends the hashing that runs beside, if some does.
API void io_stop_hashing() {
    g_hash_stops.store(true);
    if (g_hasher.joinable()) {
        g_hasher.join();
    }
}

// Hashes parts of files beside everything else, while a core is idle: count descriptors, offsets, sizes and names (each ended by
// a NUL). Appends a line for each to `output`: its hash in 16 hex digits, its size, its name, and the FNV-1a-64 of the line so
// far, separated by blanks. Takes over `output` and the descriptors `owned`; ends one that runs.
API void io_hash_beside(int count, const int32_t * fds, const double * offsets, const double * sizes, const char * names, int output, int owned_count, const int32_t * owned) {
    io_stop_hashing();
    g_hash_stops.store(false);
    g_hash_runs.store(true);
    std::vector<std::string> labels;
    for (int i = 0; i < count; i++) {
        labels.emplace_back(names);
        names += labels.back().size() + 1;
    }
    std::vector<int> files(owned, owned + owned_count);
    files.push_back(output);
    g_hasher = std::thread([parts = parts_of(count, fds, offsets, sizes), labels, files, output] {
        only_when_idle();
        file_hasher(parts).run(g_hash_stops, [&](size_t index, uint64_t hash) {
            return write_line(output, hash, parts[index].size, labels[index]);
        });
        for (int file : files) {
            close(file);
        }
        g_hash_runs.store(false);
    });
}
