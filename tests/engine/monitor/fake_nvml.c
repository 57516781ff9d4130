/* A small libnvidia-ml.so.1 for tests: the real pynvml loads it in place of the driver's.
 *
 * Driven by environment variables, read at every call, so that a test can change them while the code runs:
 *   FAKE_NVML_CARDS     number of cards (default 2)
 *   FAKE_NVML_FAIL      "function=code,function@card=code": nvmlReturn_t to return instead of an answer
 *   FAKE_NVML_LOST      index of a card on which every call returns NVML_ERROR_GPU_IS_LOST
 *   FAKE_NVML_COMPUTE   "card:pid:bytes[:instance],..." list of computing processes; pid "self" is the caller
 *   FAKE_NVML_GRAPHICS  likewise, for drawing processes
 *   FAKE_NVML_EVENTS    bits of the clocks' event reasons (decimal)
 *   FAKE_NVML_ODD_NAME  set: card names are bytes that are not UTF-8
 * Compiled with -DOLD_DRIVER the calls that came with later drivers are absent as symbols.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, INSUFFICIENT_SIZE = 7, GPU_IS_LOST = 15 };
enum { MAX_CARDS = 8, MAX_FUNCTIONS = 64 };

typedef struct { int index; } card_t;
typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } memory_v2_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned pid; unsigned long long bytes; unsigned gpu_instance, compute_instance; } process_t;

static card_t cards[MAX_CARDS];
static struct { const char *name; int count; } calls[MAX_FUNCTIONS];

static const char *setting(const char *name) {
    const char *value = getenv(name);
    return value ? value : "";
}

static int card_count(void) {
    const char *value = setting("FAKE_NVML_CARDS");
    return *value ? atoi(value) : 2;
}

/* How often a function was called; for tests of what is polled when. */
int fake_nvml_calls(const char *name) {
    for (int i = 0; i < MAX_FUNCTIONS && calls[i].name; i++)
        if (!strcmp(calls[i].name, name)) return calls[i].count;
    return 0;
}

static void count_call(const char *name) {
    for (int i = 0; i < MAX_FUNCTIONS; i++) {
        if (!calls[i].name) calls[i].name = name;
        if (!strcmp(calls[i].name, name)) { calls[i].count++; return; }
    }
}

/* The code a test wants from this function on this card (-1: no card), else SUCCESS. */
static int outcome(const char *name, int card) {
    char plain[128], with_card[128];
    count_call(name);
    if (card >= 0 && *setting("FAKE_NVML_LOST") && atoi(setting("FAKE_NVML_LOST")) == card) return GPU_IS_LOST;
    snprintf(plain, sizeof plain, "%s=", name);
    snprintf(with_card, sizeof with_card, "%s@%d=", name, card);
    for (const char *entry = setting("FAKE_NVML_FAIL"); entry && *entry;) {
        if (!strncmp(entry, plain, strlen(plain))) return atoi(entry + strlen(plain));
        if (!strncmp(entry, with_card, strlen(with_card))) return atoi(entry + strlen(with_card));
        entry = strchr(entry, ',');
        if (entry) entry++;
    }
    return SUCCESS;
}

#define BEGIN(card) do { int code = outcome(__func__, card); if (code) return code; } while (0)

int nvmlInitWithFlags(unsigned flags) { (void)flags; BEGIN(-1); return SUCCESS; }
int nvmlShutdown(void) { BEGIN(-1); return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "Fake Error"; }

int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    BEGIN(-1);
    snprintf(text, size, "555.42");
    return SUCCESS;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    BEGIN(-1);
    *count = (unsigned)card_count();
    return SUCCESS;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, card_t **card) {
    BEGIN((int)index);
    if (index >= (unsigned)card_count() || index >= MAX_CARDS) return INVALID_ARGUMENT;
    cards[index].index = (int)index;
    *card = &cards[index];
    return SUCCESS;
}

int nvmlDeviceGetName(card_t *card, char *text, unsigned size) {
    BEGIN(card->index);
    if (*setting("FAKE_NVML_ODD_NAME")) snprintf(text, size, "\xff\xfe");
    else snprintf(text, size, "Fake Card %d", card->index);
    return SUCCESS;
}

int nvmlDeviceGetUUID(card_t *card, char *text, unsigned size) {
    BEGIN(card->index);
    snprintf(text, size, "GPU-0000-%d", card->index);
    return SUCCESS;
}

/* The first version counts the driver's reserve as used, as real ones do. */
int nvmlDeviceGetMemoryInfo(card_t *card, memory_t *memory) {
    BEGIN(card->index);
    memory->total = 8000000000ULL;
    memory->used = 1500000000ULL;
    memory->free = memory->total - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetUtilizationRates(card_t *card, utilization_t *rates) {
    BEGIN(card->index);
    rates->gpu = 40 + (unsigned)card->index;
    rates->memory = 10;
    return SUCCESS;
}

int nvmlDeviceGetPowerUsage(card_t *card, unsigned *milliwatts) {
    BEGIN(card->index);
    *milliwatts = 123500;
    return SUCCESS;
}

int nvmlDeviceGetEnforcedPowerLimit(card_t *card, unsigned *milliwatts) {
    BEGIN(card->index);
    *milliwatts = 250000;
    return SUCCESS;
}

int nvmlDeviceGetTemperature(card_t *card, int sensor, unsigned *celsius) {
    (void)sensor;
    BEGIN(card->index);
    *celsius = 55;
    return SUCCESS;
}

int nvmlDeviceGetClockInfo(card_t *card, int kind, unsigned *megahertz) {
    BEGIN(card->index);
    *megahertz = kind == 1 ? 1800 : 9500;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(card_t *card, unsigned long long *bits) {
    BEGIN(card->index);
    *bits = strtoull(setting("FAKE_NVML_EVENTS"), NULL, 10);
    return SUCCESS;
}

/* NVML's manner: too small a buffer gets the needed count and NVML_ERROR_INSUFFICIENT_SIZE. */
static int list_processes(const char *entries, int card, unsigned *count, process_t *out) {
    unsigned found = 0, room = out ? *count : 0;
    for (const char *entry = entries; entry && *entry;) {
        int index = 0;
        char pid[32] = "";
        unsigned instance = 0xFFFFFFFFU;
        unsigned long long bytes = 0;
        sscanf(entry, "%d:%31[^:]:%llu:%u", &index, pid, &bytes, &instance);
        if (index == card) {
            if (found < room) {
                out[found].pid = strcmp(pid, "self") ? (unsigned)atol(pid) : (unsigned)getpid();
                out[found].bytes = bytes;
                out[found].gpu_instance = instance;
                out[found].compute_instance = instance;
            }
            found++;
        }
        entry = strchr(entry, ',');
        if (entry) entry++;
    }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v2(card_t *card, unsigned *count, process_t *out) {
    BEGIN(card->index);
    return list_processes(setting("FAKE_NVML_COMPUTE"), card->index, count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v2(card_t *card, unsigned *count, process_t *out) {
    BEGIN(card->index);
    return list_processes(setting("FAKE_NVML_GRAPHICS"), card->index, count, out);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetMemoryInfo_v2(card_t *card, memory_v2_t *memory) {
    BEGIN(card->index);
    memory->total = 8000000000ULL;
    memory->reserved = 500000000ULL;
    memory->used = 1000000000ULL;
    memory->free = memory->total - memory->reserved - memory->used;
    return SUCCESS;
}

int nvmlDeviceGetTotalEnergyConsumption(card_t *card, unsigned long long *millijoules) {
    BEGIN(card->index);
    *millijoules = 5000500ULL + (unsigned long long)card->index;
    return SUCCESS;
}

int nvmlDeviceGetCurrentClocksEventReasons(card_t *card, unsigned long long *bits) {
    BEGIN(card->index);
    *bits = strtoull(setting("FAKE_NVML_EVENTS"), NULL, 10);
    return SUCCESS;
}

int nvmlDeviceGetComputeRunningProcesses_v3(card_t *card, unsigned *count, process_t *out) {
    BEGIN(card->index);
    return list_processes(setting("FAKE_NVML_COMPUTE"), card->index, count, out);
}

int nvmlDeviceGetGraphicsRunningProcesses_v3(card_t *card, unsigned *count, process_t *out) {
    BEGIN(card->index);
    return list_processes(setting("FAKE_NVML_GRAPHICS"), card->index, count, out);
}
#endif
