# STREAMER_SANITIZE applies to everything that is built.
if(STREAMER_SANITIZE)
  add_compile_options(-fsanitize=${STREAMER_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g -O1)
  add_link_options(-fsanitize=${STREAMER_SANITIZE})
endif()

# Calls through pointers from dlsym() and objects of other shared libraries have types that these
# two checks of clang can't see.
if(STREAMER_SANITIZE MATCHES "undefined" AND CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  add_compile_options(-fno-sanitize=function,vptr)
  add_link_options(-fno-sanitize=function,vptr)
endif()

# Instrumented builds compile the sources of each directory of `target` as one, in half of the time.
# Those named after `target` define names that others of their directory define, too.
function(streamer_compile_together target)
  if(NOT STREAMER_SANITIZE)
    return()
  endif()
  get_target_property(sources ${target} SOURCES)
  foreach(source IN LISTS sources)
    get_filename_component(name ${source} NAME)
    get_filename_component(directory ${source} DIRECTORY)
    if(NOT name IN_LIST ARGN)
      string(MAKE_C_IDENTIFIER "${directory}" group)
      set_property(SOURCE ${source} PROPERTY UNITY_GROUP ${group})
    endif()
  endforeach()
  set_target_properties(${target} PROPERTIES UNITY_BUILD ON UNITY_BUILD_MODE GROUP)
endfunction()

# What tests say themselves need not be fast: that halves the time to compile it.
function(streamer_compile_quickly target)
  if(STREAMER_SANITIZE)
    target_compile_options(${target} PRIVATE -O0)
  endif()
endfunction()
