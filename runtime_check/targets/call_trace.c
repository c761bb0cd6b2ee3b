/* Records the indirect calls of an AArch64 guest program that happen a given number of times, and
 * how many instructions passed inside each: a qemu-user plugin.
 *
 * The guest makes system call MARK with a number. What is called through a register between two
 * marks is written at the second, for those call sites that made as many calls as `calls` says:
 *
 *     mark NUMBER TOTAL                   instructions since the program began
 *     call SITE TARGET BEFORE AFTER       address of the call, of what it called; instructions when
 *                                         it had been made, and when it had returned
 *
 * A call that did not return is left out. A virtual function of C++ is called through a register,
 * so one site that every node of a graph is executed through is among them. API version 1 is
 * declared here as in counter.c, and one thread is assumed as there.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated)(plugin_id, struct qemu_plugin_tb *);
typedef void (*executed)(unsigned cpu, void *block);
typedef void (*called)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t, uint64_t, uint64_t);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, called);
extern void qemu_plugin_register_vcpu_tb_exec_cb(struct qemu_plugin_tb *, executed, int registers,
                                                 void *block);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

enum { NO_REGISTERS = 0, MARK = 7777, WORD = 4, BUCKETS = 1 << 14, DEEPEST = 1 << 14 };

struct call {
    uint64_t target, before, after;
};
/* An instruction that calls through a register; `made` since the last mark, the first `most` of
 * them in `calls`. */
struct site {
    uint64_t address, made;
    struct call *calls;
    struct site *next;
};
struct block {
    uint64_t address, instructions;
    struct site *site; /* the block's last instruction, if that is such a call */
};

static struct site *sites[BUCKETS];
static struct {
    struct site *site;
    uint64_t number;
} open_calls[DEEPEST];
static size_t depth;
static struct call *entered; /* made, and what it called is not known yet */
static uint64_t total, most;
static bool recording;
static FILE *out;

static void *allocated(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL) {
        fputs("call_trace: no memory\n", stderr);
        abort();
    }
    return memory;
}

static struct site *site_at(uint64_t address) {
    struct site **bucket = &sites[address / WORD % BUCKETS];
    for (struct site *site = *bucket; site != NULL; site = site->next)
        if (site->address == address) return site;
    struct site *site = allocated(1, sizeof *site);
    site->address = address;
    site->next = *bucket;
    *bucket = site;
    return site;
}

static void call_made(struct site *site) {
    uint64_t number = site->made++;
    if (number >= most || depth == DEEPEST) return;
    if (site->calls == NULL) site->calls = allocated(most, sizeof *site->calls);
    entered = &site->calls[number];
    *entered = (struct call){0, total, 0};
    open_calls[depth].site = site;
    open_calls[depth++].number = number;
}

static void on_execution(unsigned cpu, void *data) {
    const struct block *block = data;
    (void)cpu;
    if (recording) {
        if (entered != NULL) entered->target = block->address;
        entered = NULL;
        while (depth > 0 && open_calls[depth - 1].site->address + WORD == block->address) {
            depth--;
            open_calls[depth].site->calls[open_calls[depth].number].after = total;
        }
    }
    total += block->instructions;
    if (recording && block->site != NULL) call_made(block->site);
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *translated_block) {
    size_t count = qemu_plugin_tb_n_insns(translated_block);
    struct qemu_plugin_insn *last = qemu_plugin_tb_get_insn(translated_block, count - 1);
    struct block *block = allocated(1, sizeof *block);
    uint32_t word;
    (void)id;
    memcpy(&word, qemu_plugin_insn_data(last), sizeof word);
    block->address = qemu_plugin_tb_vaddr(translated_block);
    block->instructions = count;
    /* BLR, BLRAA and its kin: Arm Architecture Reference Manual, C4.1, "unconditional branch
     * (register)". */
    if ((word & 0xfefff000) == 0xd63f0000) block->site = site_at(qemu_plugin_insn_vaddr(last));
    qemu_plugin_register_vcpu_tb_exec_cb(translated_block, on_execution, NO_REGISTERS, block);
}

static void write_calls(const struct site *site) {
    for (uint64_t k = 0; k < most; k++)
        if (site->calls[k].after != 0)
            fprintf(out, "call %" PRIx64 " %" PRIx64 " %" PRIu64 " %" PRIu64 "\n", site->address,
                    site->calls[k].target, site->calls[k].before, site->calls[k].after);
}

static void on_call(plugin_id id, unsigned cpu, int64_t number, uint64_t mark, uint64_t a2,
                    uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARK) return;
    for (size_t k = 0; k < BUCKETS; k++)
        for (struct site *site = sites[k]; site != NULL; site = site->next) {
            if (site->made == most) write_calls(site);
            site->made = 0;
        }
    fprintf(out, "mark %" PRIu64 " %" PRIu64 "\n", mark, total);
    fflush(out);
    depth = 0;
    entered = NULL;
    recording = true;
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments) {
    (void)info;
    for (int i = 0; i < count; i++) {
        if (strncmp(arguments[i], "out=", 4) == 0) out = fopen(arguments[i] + 4, "w");
        if (strncmp(arguments[i], "calls=", 6) == 0) most = strtoull(arguments[i] + 6, NULL, 10);
    }
    if (out == NULL || most == 0) {
        fputs("call_trace: give out=FILE, a file that can be written, and calls=NUMBER\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    return 0;
}
