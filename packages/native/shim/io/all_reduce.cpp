// Sums over servers: each has parts of a tensor, one for each of its devices, and all put the sum of the parts in their place. The parts cross plain
// sockets to the other servers, one each, on which everything is a message: a part_header, then so many floats, or so many bf16. Of
// these, each server rounds its own part as well before it adds, and the sum where others get it.
//
// The sum of each element is made in the order in which ggml's own all-reduce adds (ggml-backend-meta.cpp): what is beyond the
// largest power of two is folded into the first ones, then halves are added onto each other. Only the two sides of an addition
// may be swapped, which changes no bit but the payload of NaN; so all servers hold the same sums.

#include "api.h"
#include "bf16.h"
#include "clock.h"
#include "hangup.h"

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <new>
#include <sched.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <utility>
#include <vector>

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0
#endif

namespace {

constexpr int kMaxServers = 16;
constexpr int kMaxParts   = 16;

constexpr uint32_t kMagic = 0x4d555352; // "RSUM"

// Before bf16.
constexpr uint32_t kMagicBf16 = 0x46425352; // "RSBF"

// Up to so many elements, all send their parts to all and add for themselves: one latency. Beyond, each adds up
// a share of them for all others: two, but a server's bytes do not grow with the number of servers.
constexpr size_t kDirectElements = size_t(32) << 10;

// Floats that are added at a time, of one server: what there must be memory for.
constexpr size_t kPiece = size_t(256) << 10;

// A yield that takes longer has let somebody else run: this processor is wanted.
constexpr double kYieldMs = 0.01;

// Exchanges that do not spin after one in which it did not help; doubled each time. What it costs is nothing on a processor that
// nobody else wants, and much on another.
constexpr int kFirstPause = 2, kLongestPause = 64, kLongestPauseContended = 4096;

struct part_header {
    uint32_t magic;
    // Of the message on this link.
    uint32_t sequence;
    // Values that follow, and those of the whole tensor.
    uint32_t elements;
    uint32_t total;
};

// Whether waiting awake for a short time is worth it. A machine without a free processor never does it for long: the first yield
// tells that somebody else wants to run, and then it is left alone for a while.
struct spinner {
    double limit_ms = 0;
    int    pause    = 0;
    int    skip     = 0;

    bool may_begin() {
        if (limit_ms <= 0) {
            return false;
        }
        if (skip > 0) {
            skip--;
            return false;
        }
        return true;
    }

    void helped() { pause = 0; }

    void did_not_help(bool is_contended) {
        const int longest = is_contended ? kLongestPauseContended : std::max(pause, kLongestPause);
        pause = std::min(std::max(pause * 2, kFirstPause), longest);
        skip  = pause;
    }
};

struct group {
    int                rank  = 0;
    int                count = 0;
    int                fds[kMaxServers];
    uint32_t           sent[kMaxServers] = {};
    spinner            spin;
    std::vector<float> scratch;
    // What is sent and received as bf16.
    std::vector<uint16_t> halves;
    // Exchanges that waited awake, and those that it spared a sleep.
    uint32_t spins = 0, spared = 0;
};

// What goes to one server and comes from it, at the same time.
struct transfer {
    int          peer;
    size_t       value_size;
    part_header  out, in;
    const char * source;
    char *       target;
    // With the headers.
    size_t to_send, to_receive;
    size_t sent = 0, received = 0;
    // The wait since which no byte has moved, and whether one has since the last wait.
    double silent_since_ms = 0;
    bool   has_moved       = true;

    bool sends() const { return sent < to_send; }
    bool receives() const { return received < to_receive; }
};

// In the numbers of the protocol (PeerFault in packages/protocol/src/extension.ts).
enum failure { kLeft = 1, kSilent = 2, kWrong = 3, kBroken = 4, kAwaited = 5 };

// What io_all_reduce tells of a failure.
struct report {
    int32_t peer;
    int32_t kind;
    int32_t error;
};

size_t parts_of(const char * header, const char * data, size_t done, size_t total, iovec * parts) {
    size_t count = 0;
    if (done < sizeof(part_header)) {
        parts[count++] = {const_cast<char *>(header) + done, sizeof(part_header) - done};
    }
    const size_t data_done = done < sizeof(part_header) ? 0 : done - sizeof(part_header);
    const size_t data_size = total - sizeof(part_header);
    if (data_done < data_size) {
        parts[count++] = {const_cast<char *>(data) + data_done, data_size - data_done};
    }
    return count;
}

// Sends what the socket takes. 1 when something moved, 0 when nothing could, or a negative errno.
int push(const group & g, transfer & t) {
    iovec parts[2];
    msghdr message{};
    message.msg_iov    = parts;
    message.msg_iovlen = parts_of(reinterpret_cast<char *>(&t.out), t.source, t.sent, t.to_send, parts);
    const ssize_t sent = sendmsg(g.fds[t.peer], &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent >= 0) {
        t.sent += size_t(sent);
        return sent > 0 ? 1 : 0;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
}

// Receives what is there, never more than is due. As push; -EPIPE when the other side ended.
int pull(const group & g, transfer & t) {
    iovec parts[2];
    msghdr message{};
    message.msg_iov    = parts;
    message.msg_iovlen = parts_of(reinterpret_cast<char *>(&t.in), t.target, t.received, t.to_receive, parts);
    const ssize_t got = recvmsg(g.fds[t.peer], &message, MSG_DONTWAIT);
    if (got > 0) {
        t.received += size_t(got);
        return 1;
    }
    if (got == 0) {
        return -EPIPE;
    }
    return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR ? 0 : -errno;
}

bool client_is_gone(int client_fd) {
    return client_fd >= 0 && has_hung_up(client_fd);
}

int fail(report * out, int peer, failure kind, int error) {
    *out = {peer, kind, error};
    return -EPROTO;
}

int cancel(report * out, int peer) {
    *out = {peer, kAwaited, 0};
    return -ECANCELED;
}

// Why a link did not go on. A client that ends takes all its sessions along, in whatever order.
int broken(int client_fd, report * out, int peer, int error) {
    if (client_is_gone(client_fd)) {
        return cancel(out, peer);
    }
    return fail(out, peer, error == -EPIPE || error == -ECONNRESET ? kLeft : kBroken, error);
}

bool is_due(const transfer & t) {
    return t.in.magic == t.out.magic && t.in.sequence == t.out.sequence && t.in.total == t.out.total &&
        size_t(t.in.elements) * t.value_size + sizeof(part_header) == t.to_receive;
}

// Sleeps until a link can go on; 0, or what ends the exchange: each link may be silent for so long, whatever the others do.
int wait(const group & g, transfer * transfers, int count, int client_fd, double silence_ms, report * out) {
    pollfd fds[kMaxServers + 1];
    const double now = now_ms();
    // The one that has been silent for the longest time.
    int longest = -1;
    for (int i = 0; i < count; i++) {
        transfer & t = transfers[i];
        const bool is_open = t.sends() || t.receives();
        fds[i] = {is_open ? g.fds[t.peer] : -1, short((t.sends() ? POLLOUT : 0) | (t.receives() ? POLLIN : 0)), 0};
        if (t.has_moved) {
            t.silent_since_ms = now;
            t.has_moved       = false;
        }
        if (is_open && (longest < 0 || t.silent_since_ms < transfers[longest].silent_since_ms)) {
            longest = i;
        }
    }
    fds[count] = {client_fd, short(POLLRDHUP), 0};
    const int peer = transfers[longest].peer;
    const double deadline = transfers[longest].silent_since_ms + silence_ms;
    for (;;) {
        const double left = deadline - now_ms();
        const int ready = poll(fds, nfds_t(count) + 1, silence_ms <= 0 ? -1 : left <= 0 ? 0 : int(left) + 1);
        if (ready < 0 && errno == EINTR) {
            continue;
        }
        if (ready < 0) {
            return fail(out, peer, kBroken, -errno);
        }
        if (fds[count].revents != 0) {
            return cancel(out, peer);
        }
        const bool is_late = silence_ms > 0 && (ready == 0 || left <= 0);
        return is_late && fds[longest].revents == 0 ? fail(out, peer, kSilent, -ETIMEDOUT) : 0;
    }
}

// Sends and receives with all of them at once, so that no two servers wait for each other with full sockets.
int exchange(group & g, transfer * transfers, int count, int client_fd, double silence_ms, report * out) {
    // When waiting awake ends; 0 before it has begun, negative when it is over.
    double spin_until = 0;
    for (;;) {
        bool is_done = true, has_moved = false;
        for (int i = 0; i < count; i++) {
            transfer & t = transfers[i];
            const size_t before = t.sent + t.received;
            int result = 0;
            if (t.sends()) {
                result = push(g, t);
            }
            if (result >= 0 && t.receives()) {
                const bool had_header = t.received >= sizeof(part_header);
                result = pull(g, t);
                if (!had_header && t.received >= sizeof(part_header) && !is_due(t)) {
                    return fail(out, t.peer, kWrong, 0);
                }
            }
            if (result < 0) {
                return broken(client_fd, out, t.peer, result);
            }
            const bool moved = t.sent + t.received > before;
            t.has_moved |= moved;
            has_moved |= moved;
            is_done &= !t.sends() && !t.receives();
        }
        if (is_done) {
            if (spin_until > 0) {
                g.spared++;
                g.spin.helped();
            }
            return 0;
        }
        if (has_moved) {
            continue;
        }
        if (spin_until == 0 && g.spin.may_begin()) {
            spin_until = now_ms() + g.spin.limit_ms;
            g.spins++;
        }
        if (spin_until > 0) {
            const double before = now_ms();
            const bool has_time = before < spin_until;
            if (has_time) {
                sched_yield();
                if (now_ms() - before < kYieldMs) {
                    continue;
                }
            }
            g.spin.did_not_help(has_time);
        }
        spin_until = -1;
        const int result = wait(g, transfers, count, client_fd, silence_ms, out);
        if (result < 0) {
            return result;
        }
    }
}

void add_onto(float * __restrict target, const float * __restrict other, size_t count) {
    for (size_t i = 0; i < count; i++) {
        target[i] += other[i];
    }
}

// A part is added onto another one.
struct step {
    int into, other;
};

// How the parts of all servers become one sum: in the order in which ggml's own all-reduce adds (see above), whoever has them. What lies
// on one server alone is added up there first, and what comes of it, a root, travels.
struct sum_plan {
    int  owners[kMaxParts];
    int  count;
    step local[kMaxParts], joint[kMaxParts];
    int  local_count = 0, joint_count = 0;
    bool is_root[kMaxParts];
    int  roots_of[kMaxServers] = {};

    sum_plan(const uint8_t * places, int part_count) : count(part_count) {
        // By part: the server that has all that was added onto it; -1 when that is not one.
        int holders[kMaxParts];
        for (int i = 0; i < count; i++) {
            owners[i]  = places[i];
            holders[i] = places[i];
            is_root[i] = true;
        }
        int whole = 1;
        while (whole * 2 <= count) {
            whole *= 2;
        }
        const auto combine = [&](int into, int other) {
            if (holders[into] >= 0 && holders[into] == holders[other]) {
                local[local_count++] = {into, other};
                is_root[other] = false;
            } else {
                joint[joint_count++] = {into, other};
                holders[into] = -1;
            }
        };
        for (int j = whole; j < count; j++) {
            combine(j - whole, j);
        }
        for (int offset = whole / 2; offset >= 1; offset /= 2) {
            for (int j = 0; j < offset; j++) {
                combine(j, j + offset);
            }
        }
        for (int i = 0; i < count; i++) {
            roots_of[owners[i]] += is_root[i] ? 1 : 0;
        }
    }

    size_t others_roots(int rank) const {
        size_t all = 0;
        for (int i = 0; i < count; i++) {
            all += is_root[i] && owners[i] != rank ? 1 : 0;
        }
        return all;
    }
};

struct run {
    group &          g;
    const sum_plan & plan;
    // Of this server's parts, by their numbers.
    float **         rows;
    bool             is_bf16;
    int      client_fd;
    double   silence_ms;
    uint32_t total;
    report * out;

    size_t value_size() const { return is_bf16 ? sizeof(uint16_t) : sizeof(float); }

    transfer between(int peer, const char * source, size_t to_send, char * target, size_t to_receive) {
        transfer t{};
        t.peer       = peer;
        t.value_size = value_size();
        t.out        = {is_bf16 ? kMagicBf16 : kMagic, g.sent[peer]++, uint32_t(to_send), total};
        t.source     = source;
        t.target     = target;
        t.to_send    = sizeof(part_header) + to_send * value_size();
        t.to_receive = sizeof(part_header) + to_receive * value_size();
        return t;
    }

    // As they travel, `size` elements of this server's roots from `from` on, one root behind the other; `at` elements behind the
    // beginning of what is sent. Rounded in their rows, too.
    const char * packed(size_t from, size_t size, size_t at) {
        const bool is_alone = plan.roots_of[g.rank] == 1;
        float *    floats   = g.scratch.data() + send_floats_at + at;
        uint16_t * halves   = g.halves.data() + at;
        const char * begin  = reinterpret_cast<char *>(halves);
        if (!is_bf16 && !is_alone) {
            begin = reinterpret_cast<char *>(floats);
        }
        for (int i = 0; i < plan.count; i++) {
            if (plan.owners[i] != g.rank || !plan.is_root[i]) {
                continue;
            }
            float * row = rows[i] + from;
            if (is_bf16) {
                halves = rounded(halves, row, size);
            } else if (is_alone) {
                return reinterpret_cast<char *>(row);
            } else {
                memcpy(floats, row, size * sizeof(float));
                floats += size;
            }
        }
        return begin;
    }

    static uint16_t * rounded(uint16_t * halves, float * row, size_t size) {
        bf16_from_f32(halves, row, size);
        f32_from_bf16(row, halves, size);
        return halves + size;
    }

    // Where `size` values arrive that become floats at `floats`, or, as bf16, first `at` elements behind the beginning of all halves.
    char * incoming(float * floats, size_t at) {
        return is_bf16 ? reinterpret_cast<char *>(g.halves.data() + at) : reinterpret_cast<char *>(floats);
    }

    void arrived(float * floats, size_t at, size_t size) {
        if (is_bf16) {
            f32_from_bf16(floats, g.halves.data() + at, size);
        }
    }

    int with_all(transfer * transfers, int count) {
        return exchange(g, transfers, count, client_fd, silence_ms, out);
    }

    // Exchanges the roots' elements from `from` on, `size` of them, and adds them up; `sent_of` gives what a server is sent of this one's, and how many
    // elements of each root. *sum is where the sum lies then, in a row of this server's.
    template <typename SentOf> int gather(size_t from, size_t size, SentOf sent_of, float ** sum) {
        transfer transfers[kMaxServers];
        float *  values[kMaxServers];
        float *  next = g.scratch.data();
        int others = 0;
        for (int peer = 0; peer < g.count; peer++) {
            if (peer == g.rank) {
                continue;
            }
            const auto   sent   = sent_of(peer);
            const size_t theirs = size * size_t(plan.roots_of[peer]);
            values[peer] = next;
            char * target = incoming(next, receive_halves_at + size_t(next - g.scratch.data()));
            transfers[others++] = between(peer, sent.first, sent.second * size_t(plan.roots_of[g.rank]), target, theirs);
            next += theirs;
        }
        const int result = with_all(transfers, others);
        if (result < 0) {
            return result;
        }
        arrived(g.scratch.data(), receive_halves_at, size_t(next - g.scratch.data()));
        float * parts[kMaxParts] = {};
        for (int i = 0; i < plan.count; i++) {
            if (!plan.is_root[i]) {
                continue;
            }
            const int owner = plan.owners[i];
            parts[i] = owner == g.rank ? rows[i] + from : values[owner];
            if (owner != g.rank) {
                values[owner] += size;
            }
        }
        *sum = add_up(parts, size);
        return 0;
    }

    // Into a row of this server's: an addition of two commutes.
    float * add_up(float ** parts, size_t size) {
        bool is_own[kMaxParts];
        for (int i = 0; i < plan.count; i++) {
            is_own[i] = plan.owners[i] == g.rank;
        }
        for (int i = 0; i < plan.joint_count; i++) {
            const auto [into, other] = plan.joint[i];
            if (is_own[other] && !is_own[into]) {
                std::swap(parts[into], parts[other]);
                is_own[into] = true;
            }
            add_onto(parts[into], parts[other], size);
        }
        return parts[0];
    }

    int direct(size_t from, size_t size) {
        const char * own = packed(from, size, 0);
        float * sum = nullptr;
        const int result = gather(from, size, [&](int) { return std::pair{own, size}; }, &sum);
        total_row = sum == nullptr ? nullptr : sum - from;
        return result;
    }

    int shared(size_t from, size_t size) {
        const auto first = [&](int rank) { return size * size_t(rank) / size_t(g.count); };
        const auto size_of = [&](int rank) { return first(rank + 1) - first(rank); };
        const size_t roots = size_t(plan.roots_of[g.rank]);
        const char * sent[kMaxServers];
        for (int peer = 0; peer < g.count; peer++) {
            sent[peer] = packed(from + first(peer), size_of(peer), roots * first(peer));
        }
        const size_t own_size = size_of(g.rank);
        float * sum = nullptr;
        const auto sent_of = [&](int peer) { return std::pair{sent[peer], size_of(peer)}; };
        int result = gather(from + first(g.rank), own_size, sent_of, &sum);
        if (result < 0) {
            return result;
        }
        float * data = sum - first(g.rank);
        total_row = data - from;
        const char * own = reinterpret_cast<char *>(sum);
        if (is_bf16) {
            uint16_t * halves = g.halves.data() + first(g.rank);
            rounded(halves, sum, own_size);
            own = reinterpret_cast<char *>(halves);
        }
        transfer transfers[kMaxServers];
        int others = 0;
        for (int peer = 0; peer < g.count; peer++) {
            if (peer != g.rank) {
                transfers[others++] = between(peer, own, own_size, incoming(data + first(peer), first(peer)), size_of(peer));
            }
        }
        result = with_all(transfers, others);
        for (int other = 0; result == 0 && other < others; other++) {
            const int peer = transfers[other].peer;
            arrived(data + first(peer), first(peer), size_of(peer));
        }
        return result;
    }

    // The sum lies in `total_row` then, one of this server's.
    int all(size_t elements) {
        for (int i = 0; i < plan.local_count; i++) {
            const auto [into, other] = plan.local[i];
            if (plan.owners[into] == g.rank) {
                add_onto(rows[into], rows[other], elements);
            }
        }
        const size_t roots = size_t(plan.roots_of[g.rank]);
        const bool is_direct = g.count == 2 || elements <= kDirectElements;
        const size_t at_once = is_direct ? kPiece : kPiece * size_t(g.count);
        const size_t most = std::min(elements, at_once);
        const size_t received = plan.others_roots(g.rank) * (is_direct ? most : std::min(kPiece, elements / size_t(g.count) + 1));
        const size_t copied = is_bf16 || roots == 1 ? 0 : roots * most;
        send_floats_at = received;
        if (g.scratch.size() < received + copied) {
            g.scratch.resize(received + copied);
        }
        receive_halves_at = roots * most;
        if (is_bf16 && g.halves.size() < receive_halves_at + received) {
            g.halves.resize(receive_halves_at + received);
        }
        for (size_t done = 0; done < elements; done += at_once) {
            const size_t part = std::min(at_once, elements - done);
            const int result = is_direct ? direct(done, part) : shared(done, part);
            if (result < 0) {
                return result;
            }
        }
        return 0;
    }

    float * total_row = nullptr;
    // What others sent comes first in the scratch, what is sent first in the halves.
    size_t send_floats_at = 0, receive_halves_at = 0;
};

} // namespace

// A group of `count` servers in which this one has place `rank`; nothing links it yet. null when there is no memory.
API void * io_group_new(int rank, int count, double spin_ms) {
    if (count < 2 || count > kMaxServers || rank < 0 || rank >= count) {
        return nullptr;
    }
    group * g = new (std::nothrow) group;
    if (g != nullptr) {
        g->rank          = rank;
        g->count         = count;
        g->spin.limit_ms = spin_ms;
        std::fill(std::begin(g->fds), std::end(g->fds), -1);
    }
    return g;
}

// The socket to another server of the group; it stays the caller's.
API void io_group_link(void * handle, int peer, int fd) {
    static_cast<group *>(handle)->fds[peer] = fd;
}

API void io_group_free(void * handle) {
    delete static_cast<group *>(handle);
}

// How often waiting awake was tried, and how often it spared a sleep.
API void io_group_spins(void * handle, uint32_t * out) {
    const group * g = static_cast<group *>(handle);
    out[0] = g->spins;
    out[1] = g->spared;
}

// An estimate, from above, of the bytes that a sum of so many floats of `parts` parts, of which this server has `own`, needs besides them, however
// they travel. What a group has taken for one sum it keeps, and each kind only grows: of different sums it may have the most of
// each, which is more than this gives for any one of them.
API double io_all_reduce_bytes(void * handle, int own, int parts, double elements) {
    const group * g = static_cast<group *>(handle);
    const double received = double(std::min(size_t(elements), kPiece)) * double(parts - own);
    const double sent     = double(std::min(size_t(elements), kPiece * size_t(g->count))) * double(own);
    return (received + (own > 1 ? sent : 0)) * sizeof(float) + (sent + received) * sizeof(uint16_t);
}

// Adds up `part_count` parts, of which each lies on the server of its place; this server's are rows of so many floats, one after the
// other at `data`, and the sum of all is put into the first of them. Bit i of `counting` is 0 where part i is none: then zeros count.
// With `is_bf16`, which has to be the same at all, what travels does so as bf16. Every server of the group has to be linked and to have a
// part. Waits for the others; a link on which no byte moves for silence_ms (0: no limit), another message than the one that is due, and
// an end of one are -EPROTO, with out[0] the place of that server, out[1] what it did (1 left, 2 silent, 3 sent something else, 4 an error of
// the system, which is out[2]). -ECANCELED when the client is gone, or sends no more, with the place of the server that was waited for
// longest and 5. -ENOMEM without memory.
API int io_all_reduce(void * handle, float * data, const uint8_t * places, int part_count, double elements, int counting, int is_bf16, int client_fd, double silence_ms, int32_t * out) {
    group * g = static_cast<group *>(handle);
    const size_t size = size_t(elements);
    const sum_plan plan(places, part_count);
    float * rows[kMaxParts] = {};
    float * next = data;
    for (int i = 0; i < part_count; i++) {
        if (plan.owners[i] != g->rank) {
            continue;
        }
        rows[i] = next;
        next += size;
        if ((counting >> i & 1) == 0) {
            memset(rows[i], 0, size * sizeof(float));
        }
    }
    report told{};
    try {
        run sum{*g, plan, rows, is_bf16 != 0, client_fd, silence_ms, uint32_t(size), &told};
        const int result = sum.all(size);
        memcpy(out, &told, sizeof(told));
        if (result == 0 && size > 0 && sum.total_row != data) {
            memcpy(data, sum.total_row, size * sizeof(float));
        }
        return result;
    } catch (const std::bad_alloc &) {
        return -ENOMEM;
    }
}
