# STREAMER_SANITIZE applies to everything that is built.
if(STREAMER_SANITIZE)
  add_compile_options(-fsanitize=${STREAMER_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all -g -O1)
  add_link_options(-fsanitize=${STREAMER_SANITIZE})
endif()
