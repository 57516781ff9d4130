#include "team.h"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <thread>

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace dyno {
namespace {

constexpr int kSpinsBeforeYield = 2000;
constexpr auto kSpinForWork = std::chrono::microseconds(50);  // then a thread parks

void relax() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

// Waits by spinning, then by giving the core away: whoever is waited for may need it.
class Patience {
public:
    void wait() {
        if (++spins_ < kSpinsBeforeYield) relax();
        else std::this_thread::yield();
    }

private:
    int spins_ = 0;
};

// done: the run's number above 32 bits, chunks done below. taken: the number, how many chunks there are above 16 bits,
// chunks taken below. With the number in them, a thread that comes late to a run that is over can take nothing, and nobody
// has to wait until it has left.
struct alignas(64) Phase {
    std::atomic<uint64_t> taken{0}, done{0};
};

struct Seat {  // where a thread that has nothing to do sleeps
    std::condition_variable bell;
    std::atomic<bool> taken{false};
};

struct Team {
    std::mutex one_at_a_time, parking;
    Seat seats[kMaxThreads];
    std::atomic<uint64_t> run{0};  // its number
    std::atomic<int> wanted{0};
    std::atomic<Program *> program{nullptr};
    Phase phases[kMaxPhases];
    int hired = 0;

    void work(uint64_t number, int thread);
    void serve(int thread);
    void hire(int threads);
};

// Never destroyed: its threads live until the process ends.
std::atomic<Team *> current{nullptr};

Team &team() {
    Team *found = current.load(std::memory_order_acquire);
    if (found) return *found;
    Team *made = new Team;
    if (current.compare_exchange_strong(found, made)) return *made;
    delete made;
    return *found;
}

void Team::work(uint64_t number, int thread) {
    int total = -1;  // phases; the program is sure to be alive only while a chunk of it is held
    for (int p = 0; p < (total < 0 ? kMaxPhases : total); p++) {
        Phase &phase = phases[p];
        uint64_t limit = 0;
        for (;;) {
            uint64_t taken = phase.taken.load(std::memory_order_acquire);
            if (taken >> 32 != number) return;
            limit = (taken >> 16) & 0xFFFF;
            if ((taken & 0xFFFF) >= limit) break;
            if (!phase.taken.compare_exchange_weak(taken, taken + 1, std::memory_order_acq_rel)) continue;
            Program *mine = program.load(std::memory_order_relaxed);
            total = mine->phases();
            mine->run(p, int(taken & 0xFFFF), thread);
            phase.done.fetch_add(1, std::memory_order_acq_rel);
        }
        if (thread == 0) total = program.load(std::memory_order_relaxed)->phases();
        if (thread != 0 && p + 1 == total) return;
        Patience patience;
        for (;;) {
            const uint64_t done = phase.done.load(std::memory_order_acquire);
            if (done >> 32 != number) return;
            if ((done & 0xFFFFFFFF) == limit) break;
            patience.wait();
        }
        if (thread == 0) program.load(std::memory_order_relaxed)->ended(p);
    }
}

void Team::serve(int thread) {
    Seat &seat = seats[thread];
    uint64_t seen = 0;
    // A run that wants fewer threads leaves this one asleep.
    const auto called = [&] { return run.load() != seen && thread < wanted.load(); };
    for (;;) {
        const auto since = std::chrono::steady_clock::now();
        int looks = 0;
        while (!called()) {
            relax();
            if (++looks % 64 == 0 && std::chrono::steady_clock::now() - since > kSpinForWork) {
                std::unique_lock<std::mutex> lock(parking);
                seat.taken.store(true);
                seat.bell.wait(lock, called);
                seat.taken.store(false);
            }
        }
        seen = run.load(std::memory_order_acquire);
        // Asked again after the number: another run may have begun meanwhile, without room for this thread.
        if (thread < wanted.load(std::memory_order_acquire)) work(seen, thread);
    }
}

void Team::hire(int threads) {
    while (hired < threads - 1) {
        const int thread = hired + 1;
        try {
            std::thread([this, thread] { serve(thread); }).detach();
        } catch (const std::exception &) {
            return;  // the system has no more threads: fewer do the work
        }
        hired++;
    }
}

// In the child of a fork, where the threads do not exist, and whoever held a lock does not either.
void forget_team() { current.store(nullptr); }

}  // namespace

void run_together(Program &program, int threads) {
    Team &t = team();
    std::lock_guard<std::mutex> alone(t.one_at_a_time);
#if defined(__unix__) || defined(__APPLE__)
    static const int once = pthread_atfork(nullptr, nullptr, forget_team);
    (void)once;
#endif
    t.hire(threads < kMaxThreads ? threads : kMaxThreads);
    const uint64_t number = (t.run.load(std::memory_order_relaxed) + 1) & 0xFFFFFFFF;
    const int total = program.phases();
    t.program.store(&program, std::memory_order_relaxed);
    t.wanted.store(threads, std::memory_order_seq_cst);
    for (int p = 0; p < total; p++) {
        t.phases[p].done.store(number << 32, std::memory_order_relaxed);
        t.phases[p].taken.store(number << 32 | uint64_t(program.chunks(p)) << 16, std::memory_order_release);
    }
    t.run.store(number, std::memory_order_seq_cst);
    for (int thread = 1; thread <= t.hired && thread < threads; thread++)
        if (t.seats[thread].taken.load(std::memory_order_seq_cst)) {
            std::lock_guard<std::mutex> lock(t.parking);
            t.seats[thread].bell.notify_one();
        }
    t.work(number, 0);
}

}  // namespace dyno
