// Whether objects of Python are what they were: looked at before every run, so it must take no more than microseconds.
#include <nanobind/nanobind.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "binding.hpp"

namespace nb = nanobind;

namespace transpike {
namespace {

// Dictionaries and what they held, by identity. Whoever makes it keeps all of these objects alive: it has no references of
// its own, which Python could not see.
class Watch {
public:
  explicit Watch(const std::vector<nb::dict> &dictionaries) {
    for (const nb::dict &dictionary : dictionaries) {
      Each each{dictionary.ptr(), {}};
      PyObject *key, *value;
      for (Py_ssize_t at = 0; PyDict_Next(each.dictionary, &at, &key, &value);)
        each.held.emplace_back(key, value);
      all_.push_back(std::move(each));
    }
  }

  bool same() const {
    for (const Each &each : all_) {
      if (PyDict_GET_SIZE(each.dictionary) != static_cast<Py_ssize_t>(each.held.size()))
        return false;
      PyObject *key, *value;
      auto before = each.held.begin();
      for (Py_ssize_t at = 0; PyDict_Next(each.dictionary, &at, &key, &value); ++before)
        if (key != before->first || value != before->second)
          return false;
    }
    return true;
  }

private:
  struct Each {
    PyObject *dictionary;
    std::vector<std::pair<PyObject *, PyObject *>> held;
  };
  std::vector<Each> all_;
};

// Memory whose contents are told apart by a number (digest.hpp). The caller knows that it can be read.
class Contents {
public:
  // Addresses and sizes; all bytes count if `stride` is 0, else the first 64 of every so many.
  Contents(const std::vector<std::pair<std::uintptr_t, std::ptrdiff_t>> &places, std::ptrdiff_t stride)
      : stride_(stride) {
    expect(stride == 0 || stride >= kLine, "lines must not overlap");
    for (const auto &[address, bytes] : places)
      spans_.push_back({reinterpret_cast<const char *>(address), bytes});
  }

  std::uint64_t digest() const {
    return kernels().digest(spans_.data(), static_cast<std::ptrdiff_t>(spans_.size()), stride_);
  }

private:
  std::vector<Span> spans_;
  std::ptrdiff_t stride_;
};

} // namespace

void bind_watch(nb::module_ &m) {
  nb::class_<Watch>(m, "Watch")
      .def(nb::init<const std::vector<nb::dict> &>(), nb::arg("dictionaries"))
      .def("same", &Watch::same);
  nb::class_<Contents>(m, "Contents")
      .def(nb::init<const std::vector<std::pair<std::uintptr_t, std::ptrdiff_t>> &, std::ptrdiff_t>(),
           nb::arg("places"), nb::arg("stride"))
      .def("digest", &Contents::digest);
}

} // namespace transpike
