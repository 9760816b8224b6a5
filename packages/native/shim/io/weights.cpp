// Hashes of weights, and files of weights straight into memory.

#include "api.h"
#include "fnv.h"
#include "populate.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <iterator>
#include <memory>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#ifdef __linux__
#include <sys/vfs.h>
#endif
#include <thread>
#include <unistd.h>
#include <utility>
#include <vector>

#ifdef __linux__
#include <sched.h>
#include <sys/syscall.h>
#elif defined(__APPLE__)
#include <pthread/qos.h>
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

#ifdef __linux__
namespace {

// Whether nobody has the file open to write it. The kernel grants a reader's lease in that case alone (fcntl(2)), on file systems
// that have leases at all, and to the file's owner. Who opens it to write in this very moment has SIGIO sent here; see
// io_ignore_signals.
bool has_no_writer(int fd) {
    if (fcntl(fd, F_SETLEASE, F_RDLCK) < 0) {
        return false;
    }
    fcntl(fd, F_SETLEASE, F_UNLCK);
    return true;
}

// File systems of this machine (statfs(2)): elsewhere a file may go while it is mapped, which ends who reads on.
bool is_local(int fd) {
    constexpr uint32_t kLocal[] = {
        0xef53,     // ext2 to ext4
        0x58465342, // XFS
        0x9123683e, // Btrfs
        0xf2f52010, // F2FS
        0x2fc12fc1, // ZFS
        0xca451a4e, // bcachefs
        0x01021994, // tmpfs
    };
    struct statfs found{};
    return fstatfs(fd, &found) == 0 && std::find(std::begin(kLocal), std::end(kLocal), uint32_t(found.f_type)) != std::end(kLocal);
}

// Whole pages of a file in the place of a range's memory, copied when they are written; false with the memory as it was, so they are
// mapped elsewhere first.
bool map_pages(int fd, char * target, double offset, size_t size) {
    void * mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, off_t(offset));
    if (mapped == MAP_FAILED) {
        return false;
    }
    bool is_good = true;
#ifdef MADV_POPULATE_READ
    // Where a disk fails, it does so here as a rule, and not when the pages are used, which ends the process. An older kernel brings
    // them then.
    is_good = madvise(mapped, size, MADV_POPULATE_READ) == 0 || errno == EINVAL;
#endif
    is_good = is_good && mremap(mapped, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, target) != MAP_FAILED;
    if (!is_good) {
        munmap(mapped, size);
    }
    return is_good;
}

} // namespace
#endif

// What io_read_file does into private memory, by mapping the file's whole pages where that can be done: where both start at a page,
// and nobody has the file open to write it. Who could write into it, or cut it, later would change the memory, or end the process.
API double io_map_file(int fd, void * target, double offset, double size) {
    char * at = static_cast<char *>(target);
    double mapped = 0;
#ifdef __linux__
    const auto page = double(sysconf(_SC_PAGESIZE));
    const double pages = std::floor(size / page) * page;
    const bool fits = std::fmod(double(reinterpret_cast<uintptr_t>(at)), page) == 0 && std::fmod(offset, page) == 0;
    struct stat found{};
    // A page behind the file's end would be there to be mapped, and not to be read.
    const bool is_whole = fstat(fd, &found) == 0 && double(found.st_size) >= offset + size;
    if (pages > 0 && fits && is_whole && is_local(fd) && has_no_writer(fd) && map_pages(fd, at, offset, size_t(pages))) {
        mapped = pages;
    }
#endif
    const double rest = io_read_file(fd, at + size_t(mapped), offset + mapped, size - mapped);
    return rest < 0 ? rest : mapped + rest;
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

// Rows of a file that are to be hashed as one block; mostly a single one.
struct file_part {
    int    fd;
    double offset;
    double size; // of all rows
    double row;
    double stride; // from the start of one row to that of the next

    // Reads exactly size bytes of the rows from done on.
    bool read(char * target, double done, size_t size) const {
        while (size > 0) {
            const double index = std::floor(done / row);
            const double begin = done - index * row;
            const size_t count = size_t(std::min(row - begin, double(size)));
            if (read_exactly(fd, target, offset + index * stride + begin, count) != double(count)) {
                return false;
            }
            target += count;
            done += double(count);
            size -= count;
        }
        return true;
    }
};

// Some hashing beside everything else.
struct hash_run {
    std::atomic<bool> stops{false};
    std::atomic<bool> runs{true};
};

// The last one. Nobody waits for its thread: that runs when nothing else does, and a read of a disk may never come back. The
// process may end meanwhile, so it is never destroyed.
std::shared_ptr<hash_run> & g_hash_run = *new std::shared_ptr<hash_run>();

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
#elif defined(__APPLE__)
    pthread_set_qos_class_self_np(QOS_CLASS_BACKGROUND, 0);
#endif
}

// One write a line: lines of several processes do not mix. False when the disk is full.
bool write_line(int output, uint64_t hash, double size, const std::string & name) {
    // It would end the line, and write others of its own.
    if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; })) {
        return true;
    }
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
            if (!part.read(blocks_[lane].data(), open[lane].done, sizes[lane])) {
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

// places has an offset, the size of all rows, that of one, and the stride from one to the next, for each.
std::vector<file_part> parts_of(int count, const int32_t * fds, const double * places) {
    std::vector<file_part> parts;
    for (int i = 0; i < count; i++, places += 4) {
        parts.push_back({fds[i], places[0], places[1], places[2], places[3]});
    }
    return parts;
}

} // namespace

// FNV-1a-64 of count parts of files, into hashes, low word first; see parts_of. 1; 0 when a part cannot be read, or there is no memory
// for it.
API int io_hash_files(int count, const int32_t * fds, const double * places, uint64_t * hashes) {
    static const std::atomic<bool> never{false};
    try {
        const std::vector<file_part> parts = parts_of(count, fds, places);
        return file_hasher(parts).run(never, [hashes](size_t index, uint64_t hash) {
            hashes[index] = hash;
            return true;
        });
    } catch (const std::exception &) {
        return 0;
    }
}

// Whether some hashing runs beside that was not told to stop.
API int io_is_hashing() {
    return g_hash_run != nullptr && !g_hash_run->stops.load() && g_hash_run->runs.load();
}

// Ends the hashing that runs beside, if some does, with the next 256 KiB: it may write a last line meanwhile.
API void io_stop_hashing() {
    if (g_hash_run != nullptr) {
        g_hash_run->stops.store(true);
    }
}

// Hashes parts of files beside everything else, while a core is idle: count descriptors, places (see parts_of) and names (each ended
// by a NUL). Appends a line for each to `output`: its hash in 16 hex digits, its size, its name, and the FNV-1a-64 of the line so
// far, separated by blanks; none for a name with control characters. Takes over `output` and the descriptors `owned`; ends one
// that runs. 1; 0 when there is no memory or no thread for it.
API int io_hash_beside(int count, const int32_t * fds, const double * places, const char * names, int output, int owned_count, const int32_t * owned) {
    io_stop_hashing();
    try {
        std::vector<std::string> labels;
        for (int i = 0; i < count; i++) {
            labels.emplace_back(names);
            names += labels.back().size() + 1;
        }
        auto run = std::make_shared<hash_run>();
        std::vector<int> files(owned, owned + owned_count);
        files.push_back(output);
        std::thread([parts = parts_of(count, fds, places), labels = std::move(labels), files = std::move(files), output, run] {
            only_when_idle();
            try {
                file_hasher(parts).run(run->stops, [&](size_t index, uint64_t hash) {
                    return write_line(output, hash, parts[index].size, labels[index]);
                });
            } catch (const std::exception &) {
                // Without memory for it nothing is found out.
            }
            for (int file : files) {
                close(file);
            }
            run->runs.store(false);
        }).detach();
        g_hash_run = run;
        return 1;
    } catch (const std::exception &) {
        // The thread has not begun.
        for (int i = 0; i < owned_count; i++) {
            close(owned[i]);
        }
        close(output);
        return 0;
    }
}
