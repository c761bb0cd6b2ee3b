/* Counts the AArch64 instructions that a guest program executes, by class: a qemu-user plugin.
 *
 * The guest makes system call MARK with a number; the counters are then written as one line, so
 * that whatever lies between two marks is the difference of two lines. Neither qemu's headers nor
 * any plugin is packaged by Debian: the few calls of plugin API version 1 (qemu 5.2 to 8.2,
 * docs/devel/tcg-plugins.rst) are declared here.
 *
 * One thread: the counters are plain, so a guest with several running threads would lose some.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_plugin_insn;
typedef void (*translated)(plugin_id, struct qemu_plugin_tb *);
typedef void (*called)(plugin_id, unsigned, int64_t, uint64_t, uint64_t, uint64_t, uint64_t,
                       uint64_t, uint64_t, uint64_t, uint64_t);

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id, translated);
extern void qemu_plugin_register_vcpu_syscall_cb(plugin_id, called);
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *, int operation,
                                                     void *counter, uint64_t amount);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern const void *qemu_plugin_insn_data(const struct qemu_plugin_insn *);

#define EXPORTED __attribute__((visibility("default")))
EXPORTED int qemu_plugin_version = 1;

enum { ADD_U64 = 0, MARK = 7777 };
enum { ALL, SIMD_FP, DOT, MMLA, WIDENING, FMLA, CLASSES };
static const char *const names[CLASSES] = {"all",  "simd_fp",           "dot",
                                           "mmla", "widening_multiply", "fmla"};

/* An instruction is of a class when (word & mask) == value. Arm Architecture Reference Manual,
 * chapter C4.1 "A64 instruction set encoding". */
static const struct {
    int class;
    uint32_t mask, value;
} encodings[] = {
    {SIMD_FP, 0x0e000000, 0x0e000000},  /* data processing, SIMD and floating point */
    {DOT, 0x9f20fc00, 0x0e009400},      /* SDOT, UDOT (vector) */
    {DOT, 0x9f00f400, 0x0f00e000},      /* SDOT, UDOT (by element) */
    {DOT, 0xbfe0fc00, 0x0e809c00},      /* USDOT (vector) */
    {DOT, 0xbf30f400, 0x0f00f000},      /* USDOT, SUDOT (by element) */
    {MMLA, 0xdfe0f400, 0x4e80a400},     /* SMMLA, UMMLA, USMMLA */
    {WIDENING, 0x9f20bc00, 0x0e208000}, /* SMLAL, UMLAL, SMULL, UMULL (vector) */
    {WIDENING, 0x9f007400, 0x0f002000}, /* the same by element */
    {FMLA, 0xbfa0fc00, 0x0e20cc00},     /* FMLA (vector) */
    {FMLA, 0xbf80f400, 0x0f801000},     /* FMLA (by element) */
    {FMLA, 0xbfe0fc00, 0x0e400c00},     /* FMLA (vector, half precision) */
    {FMLA, 0xbfc0f400, 0x0f001000},     /* FMLA (by element, half precision) */
};

static uint64_t executed[CLASSES];
static FILE *out;

static void add_word(uint64_t *found, uint32_t word) {
    bool seen[CLASSES] = {false};
    for (size_t i = 0; i < sizeof encodings / sizeof encodings[0]; i++)
        if ((word & encodings[i].mask) == encodings[i].value) seen[encodings[i].class] = true;
    found[ALL]++;
    for (int class = SIMD_FP; class < CLASSES; class++) found[class] += seen[class];
}

static void on_translation(plugin_id id, struct qemu_plugin_tb *block) {
    uint64_t found[CLASSES] = {0};
    size_t count = qemu_plugin_tb_n_insns(block);
    (void)id;
    for (size_t i = 0; i < count; i++) {
        uint32_t word;
        memcpy(&word, qemu_plugin_insn_data(qemu_plugin_tb_get_insn(block, i)), sizeof word);
        add_word(found, word);
    }
    for (int class = ALL; class < CLASSES; class++)
        if (found[class])
            qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &executed[class],
                                                     found[class]);
}

static void on_call(plugin_id id, unsigned cpu, int64_t number, uint64_t mark, uint64_t a2,
                    uint64_t a3, uint64_t a4, uint64_t a5, uint64_t a6, uint64_t a7, uint64_t a8) {
    (void)id, (void)cpu, (void)a2, (void)a3, (void)a4, (void)a5, (void)a6, (void)a7, (void)a8;
    if (number != MARK) return;
    fprintf(out, "mark %" PRIu64, mark);
    for (int class = ALL; class < CLASSES; class++)
        fprintf(out, " %s=%" PRIu64, names[class], executed[class]);
    fputc('\n', out);
    fflush(out);
}

EXPORTED int qemu_plugin_install(plugin_id id, const void *info, int count, char **arguments) {
    (void)info;
    for (int i = 0; i < count; i++)
        if (strncmp(arguments[i], "out=", 4) == 0) out = fopen(arguments[i] + 4, "w");
    if (out == NULL) {
        fputs("counter: give out=FILE, a file that can be written\n", stderr);
        return 1;
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_vcpu_syscall_cb(id, on_call);
    return 0;
}
