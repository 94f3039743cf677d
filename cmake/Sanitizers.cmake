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
