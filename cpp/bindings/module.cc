// The module runai_model_streamer._native: translates between Python and streamer/stream.h.
#include <pybind11/pybind11.h>

#include "buffer.h"
#include "convert.h"
#include "streamer/stream.h"

PYBIND11_MODULE(_native, module) {
  module.doc() = "Native engine of runai_model_streamer.";
  module.def("version", [] { return std::string(streamer::version()); });
  streamer::python::bind_errors(module);
  streamer::python::bind_list(module);
  streamer::python::bind_settings(module);
  streamer::python::bind_header(module);
  streamer::python::bind_buffer(module);
  streamer::python::bind_dlpack(module);
  streamer::python::bind_types(module);  // before the functions whose defaults they are
  streamer::python::bind_stream(module);
}
