// Runs ExecuTorch programs where they are to run: runner.py's counterpart for .pte artifacts.
//
// ExecuTorch's Python binding needs torch, its C++ libraries do not. The protocol is runner.py's:
// requests on standard input, answers on standard output, each one line of JSON and then as many
// bytes as its "bytes" says. A program's batch is 1, so a batch is run image by image.
#include <executorch/extension/data_loader/buffer_data_loader.h>
#include <executorch/extension/module/module.h>
#include <executorch/extension/tensor/tensor_ptr_maker.h>

#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

// The wheel ships this library without its header; these two are in it.
namespace executorch::extension::threadpool {
class ThreadPool {
   public:
    bool _unsafe_reset_threadpool(uint32_t threads);
};
ThreadPool *get_threadpool();
}  // namespace executorch::extension::threadpool

namespace {

using executorch::aten::ScalarType;
using executorch::extension::BufferDataLoader;
using executorch::extension::from_blob;
using executorch::extension::Module;
using executorch::extension::TensorPtr;
using executorch::runtime::Error;
using executorch::runtime::Program;
using executorch::runtime::TensorInfo;
using Bytes = std::vector<char>;

constexpr char kProtocol[] = "edgeveil.runner/1";
constexpr long kMarkCall = 7777;
constexpr size_t kMaxLine = 65536;
constexpr int64_t kMaxBytes = int64_t{1} << 32;

[[noreturn]] void fail(const std::string &what) { throw std::runtime_error(what); }

void require(Error error, const std::string &what) {
    if (error != Error::Ok) fail(what + ": " + executorch::runtime::to_string(error));
}

// One request: the keys of a flat JSON object, their values strings, integers or arrays of these.
class Request {
   public:
    explicit Request(std::string line) : line_(std::move(line)) {
        take('{');
        while (!next_is('}')) {
            if (!texts_.empty() || !numbers_.empty()) take(',');
            std::string key = text();
            take(':');
            value(key);
        }
        take('}');
        space();
        if (at_ != line_.size()) fail("the request goes on after its object");
    }

    const std::string &text_of(const std::string &key) const {
        auto found = texts_.find(key);
        if (found == texts_.end()) fail("the request has no text " + key);
        return found->second;
    }

    const std::vector<int64_t> &numbers_of(const std::string &key) const {
        auto found = numbers_.find(key);
        if (found == numbers_.end()) fail("the request has no number " + key);
        return found->second;
    }

    int64_t number_of(const std::string &key, int64_t least, int64_t most) const {
        const std::vector<int64_t> &found = numbers_of(key);
        if (found.size() != 1 || found[0] < least || found[0] > most)
            fail(key + " is not a number from " + std::to_string(least) + " to " +
                 std::to_string(most));
        return found[0];
    }

   private:
    void space() {
        while (at_ < line_.size() && std::strchr(" \t\r\n", line_[at_])) at_++;
    }

    bool next_is(char wanted) {
        space();
        return at_ < line_.size() && line_[at_] == wanted;
    }

    void take(char wanted) {
        if (!next_is(wanted)) fail(std::string("the request is no JSON: no '") + wanted + "'");
        at_++;
    }

    char next() {
        if (at_ == line_.size()) fail("the request is no JSON: it ends in a text");
        return line_[at_++];
    }

    std::string text() {
        std::string found;
        take('"');
        for (char c = next(); c != '"'; c = next()) found += c == '\\' ? escaped() : c;
        return found;
    }

    char escaped() {
        static const char kNames[] = "\"\\/bfnrt", kMeant[] = "\"\\/\b\f\n\r\t";
        const char c = next();
        const char *found = std::strchr(kNames, c);
        if (c == '\0' || found == nullptr) fail("the request has an escape that no name needs");
        return kMeant[found - kNames];
    }

    int64_t number() {
        space();
        const char *start = line_.c_str() + at_;
        char *end = nullptr;
        errno = 0;
        const long long found = std::strtoll(start, &end, 10);
        if (end == start || errno != 0) fail("the request has a value that is not expected");
        at_ += end - start;
        return found;
    }

    void value(const std::string &key) {
        if (next_is('"')) {
            texts_[key] = text();
        } else if (next_is('[')) {
            array(key);
        } else {
            numbers_[key] = {number()};
        }
    }

    void array(const std::string &key) {
        std::vector<int64_t> found;
        take('[');
        for (bool first = true; !next_is(']'); first = false) {
            if (!first) take(',');
            if (next_is('"')) fail(key + " has a text, where only numbers are understood");
            found.push_back(number());
        }
        take(']');
        numbers_[key] = found;
    }

    std::string line_;
    size_t at_ = 0;
    std::map<std::string, std::string> texts_;
    std::map<std::string, std::vector<int64_t>> numbers_;
};

std::string quoted(const std::string &text) {
    std::string found = "\"";
    for (char c : text) {
        if (c == '"' || c == '\\') found += '\\';
        // What is left out of an error's text is not missed; JSON allows no bare control character.
        if (static_cast<unsigned char>(c) >= 0x20) found += c;
    }
    return found + '"';
}

const char *dtype_name(ScalarType type) {
    if (type == ScalarType::Float) return "float32";
    if (type == ScalarType::Byte) return "uint8";
    fail("the program's output is neither float32 nor uint8");
}

// One program in memory with its method `forward`: one float32 image in, one tensor out.
class Model {
   public:
    explicit Model(const Bytes &data) : data_(aligned(data)) {
        module_ = std::make_unique<Module>(
            std::make_unique<BufferDataLoader>(data_.get(), data.size()));
        require(module_->load(Program::Verification::InternalConsistency), "no program");
        require(module_->load_forward(), "the method forward does not load");
        read_ends();
    }

    const std::vector<int64_t> &output_shape() const { return output_shape_; }
    const char *output_dtype() const { return output_dtype_; }
    size_t image_bytes() const { return image_bytes_; }
    size_t output_bytes() const { return output_bytes_; }

    // How many images a batch of that shape has.
    size_t require_batch(const std::vector<int64_t> &shape, size_t bytes) const {
        const bool fits = shape.size() == input_shape_.size() && shape[0] >= 1 &&
                          std::equal(shape.begin() + 1, shape.end(), input_shape_.begin() + 1);
        if (!fits || bytes % image_bytes_ != 0 ||
            bytes / image_bytes_ != static_cast<size_t>(shape[0]))
            fail("the batch has not the shape that the program takes");
        return shape[0];
    }

    // The output stays the program's until the next run.
    const void *run(void *image) {
        auto result = module_->forward(from_blob(image, input_shape_, ScalarType::Float));
        require(result.error(), "forward failed");
        if (result->size() != 1 || !result->at(0).isTensor()) fail("forward gave no one tensor");
        const auto &tensor = result->at(0).toTensor();
        if (tensor.nbytes() != output_bytes_) fail("forward gave an output of another size");
        return tensor.const_data_ptr();
    }

   private:
    using Free = void (*)(void *);

    // Programs are read in place, at offsets that are aligned in the file.
    static std::unique_ptr<void, Free> aligned(const Bytes &data) {
        constexpr size_t kPage = 4096;
        void *memory = std::aligned_alloc(kPage, (data.size() / kPage + 1) * kPage);
        if (memory == nullptr) fail("no memory for the program");
        std::memcpy(memory, data.data(), data.size());
        return {memory, std::free};
    }

    void read_ends() {
        auto meta = module_->method_meta("forward");
        require(meta.error(), "the method forward is not described");
        if (meta->num_inputs() != 1 || meta->num_outputs() != 1)
            fail("the program has not one input and one output");
        auto input = meta->input_tensor_meta(0);
        auto output = meta->output_tensor_meta(0);
        require(input.error(), "the input is no tensor");
        require(output.error(), "the output is no tensor");
        require_plain(*input);
        require_plain(*output);
        if (input->scalar_type() != ScalarType::Float) fail("the program's input is not float32");
        input_shape_.assign(input->sizes().begin(), input->sizes().end());
        output_shape_.assign(output->sizes().begin(), output->sizes().end());
        output_dtype_ = dtype_name(output->scalar_type());
        image_bytes_ = input->nbytes();
        output_bytes_ = output->nbytes();
    }

    static void require_plain(const TensorInfo &info) {
        if (info.sizes().empty() || info.sizes()[0] != 1 || info.nbytes() == 0)
            fail("the program's batch is not 1");
        for (size_t i = 0; i < info.dim_order().size(); i++)
            if (info.dim_order()[i] != i) fail("a tensor of the program is not in torch's order");
    }

    std::unique_ptr<void, Free> data_;
    std::unique_ptr<Module> module_;
    std::vector<executorch::aten::SizesType> input_shape_;
    std::vector<int64_t> output_shape_;
    const char *output_dtype_ = nullptr;
    size_t image_bytes_ = 0;
    size_t output_bytes_ = 0;
};

struct Answer {
    std::string header;  // the members of a JSON object, each followed by a comma
    Bytes data;
};

class Runner {
   public:
    Answer answer(const Request &request, Bytes &data) {
        const std::string &what = request.text_of("do");
        if (what == "hello") return hello();
        if (what == "load") return load(request, data);
        if (what == "run") return run(request, data);
        if (what == "count") return count(request, data);
        if (what == "drop") return drop(request);
        fail("the request " + what + " is unknown");
    }

   private:
    static Answer hello() {
        utsname system;
        if (uname(&system) != 0) fail("uname failed");
        return {"\"protocol\": " + quoted(kProtocol) + ", \"machine\": " + quoted(system.machine) +
                    ", \"system\": " + quoted(system.sysname) +
                    ", \"release\": " + quoted(system.release) +
                    ", \"versions\": {\"executorch\": " + quoted(EXECUTORCH_VERSION) +
                    ", \"g++\": " + quoted(__VERSION__) + "}, ",
                {}};
    }

    Answer load(const Request &request, const Bytes &data) {
        if (request.text_of("format") != "executorch") fail("this runner runs executorch only");
        const auto threads = static_cast<uint32_t>(request.number_of("threads", 1, 1024));
        auto *pool = executorch::extension::threadpool::get_threadpool();
        if (pool == nullptr || !pool->_unsafe_reset_threadpool(threads))
            fail("the number of threads cannot be set");
        models_[request.text_of("id")] = std::make_unique<Model>(data);
        return {};
    }

    Answer drop(const Request &request) {
        model(request);
        models_.erase(request.text_of("id"));
        return {};
    }

    Answer run(const Request &request, Bytes &data) {
        Model &chosen = model(request);
        const size_t images = chosen.require_batch(request.numbers_of("shape"), data.size());
        Bytes found(images * chosen.output_bytes());
        for (size_t i = 0; i < images; i++)
            std::memcpy(found.data() + i * chosen.output_bytes(),
                        chosen.run(data.data() + i * chosen.image_bytes()),
                        chosen.output_bytes());
        std::string shape = std::to_string(images);
        for (size_t i = 1; i < chosen.output_shape().size(); i++)
            shape += ", " + std::to_string(chosen.output_shape()[i]);
        return {"\"dtype\": " + quoted(chosen.output_dtype()) + ", \"shape\": [" + shape + "], ",
                std::move(found)};
    }

    Answer count(const Request &request, Bytes &data) {
        Model &chosen = model(request);
        if (chosen.require_batch(request.numbers_of("shape"), data.size()) != 1)
            fail("instructions are counted of one image");
        const int64_t warmup = request.number_of("warmup", 0, INT_MAX);
        const int64_t inferences = request.number_of("inferences", 1, INT_MAX);
        const int64_t first = request.number_of("first", 0, INT64_MAX - inferences);
        for (int64_t i = 0; i < warmup; i++) chosen.run(data.data());
        for (int64_t i = 0; i < inferences; i++) {
            syscall(kMarkCall, first + i);
            chosen.run(data.data());
        }
        syscall(kMarkCall, first + inferences);
        return {};
    }

    Model &model(const Request &request) {
        auto found = models_.find(request.text_of("id"));
        if (found == models_.end()) fail("nothing is loaded as " + request.text_of("id"));
        return *found->second;
    }

    std::map<std::string, std::unique_ptr<Model>> models_;
};

// Returns how many of `count` bytes came before the input ended.
size_t read_all(char *to, size_t count) {
    size_t done = 0;
    while (done < count) {
        const ssize_t got = read(STDIN_FILENO, to + done, count - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(std::string("the input cannot be read: ") + std::strerror(errno));
        if (got == 0) break;
        done += got;
    }
    return done;
}

void write_all(int file, const char *from, size_t count) {
    while (count > 0) {
        const ssize_t put = write(file, from, count);
        if (put < 0 && errno == EINTR) continue;
        if (put < 0) fail(std::string("the output cannot be written: ") + std::strerror(errno));
        from += put;
        count -= put;
    }
}

// Byte by byte: what follows the line belongs to whoever reads it next. Empty at the end.
std::string read_line() {
    std::string line;
    for (char c = 0; c != '\n' && read_all(&c, 1) == 1; line += c)
        if (line.size() == kMaxLine) fail("a request without end");
    return line;
}

void serve(int answers) {
    Runner runner;
    for (std::string line = read_line(); !line.empty(); line = read_line()) {
        const Request request(line);
        Bytes data(request.number_of("bytes", 0, kMaxBytes));
        if (read_all(data.data(), data.size()) != data.size()) fail("the request was cut off");
        Answer answer;
        try {
            answer = runner.answer(request, data);
        } catch (const std::exception &error) {
            answer = {"\"error\": " + quoted(error.what()) + ", ", {}};
        }
        const std::string header =
            "{" + answer.header + "\"bytes\": " + std::to_string(answer.data.size()) + "}\n";
        write_all(answers, header.data(), header.size());
        write_all(answers, answer.data.data(), answer.data.size());
    }
}

}  // namespace

// Whatever a library prints goes to standard error; the answers alone go where they are read.
int main() {
    const int answers = dup(STDOUT_FILENO);
    if (answers < 0 || dup2(STDERR_FILENO, STDOUT_FILENO) < 0) return 1;
    try {
        serve(answers);
    } catch (const std::exception &error) {
        const std::string said = std::string(error.what()) + "\n";
        write_all(STDERR_FILENO, said.data(), said.size());
        return 1;
    }
    return 0;
}
