# libstreamer.so: the C ABI over the C++ API, and the rules that install it for embedders.
file(GLOB c_api_sources CONFIGURE_DEPENDS ${CMAKE_CURRENT_SOURCE_DIR}/src/c_api/*.cc)
add_library(streamer SHARED ${c_api_sources})
add_library(model_streamer::streamer ALIAS streamer)
target_include_directories(
  streamer
  PUBLIC $<BUILD_INTERFACE:${CMAKE_CURRENT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>
  PRIVATE src)
target_compile_options(streamer PRIVATE -Wall -Wextra -Wpedantic -Wshadow)
if(CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  target_compile_options(streamer PRIVATE -Wthread-safety -Werror=thread-safety)
endif()
target_link_libraries(streamer PRIVATE $<LINK_LIBRARY:WHOLE_ARCHIVE,streamer_core>)

if(STREAMER_OBJECT_STORAGE)
  target_compile_definitions(streamer PRIVATE STREAMER_OBJECT_STORAGE)
endif()

set(STREAMER_MAP ${CMAKE_CURRENT_BINARY_DIR}/libstreamer.map)
configure_file(libstreamer.map.in ${STREAMER_MAP} @ONLY)
# The map hides the symbols of static archives (libcurl, OpenSSL, libstdc++). -Bsymbolic: symbols of
# other libraries do not replace ours, even of the same name. nodelete: a thread that waits for the
# resolver can't be ended, and may come back after dlclose().
target_link_options(
  streamer PRIVATE -Wl,--version-script=${STREAMER_MAP} -Wl,-Bsymbolic
  -Wl,--gc-sections -Wl,--as-needed -Wl,-z,relro,-z,now,-z,nodelete)
if(NOT STREAMER_SANITIZE)
  target_link_options(streamer PRIVATE -Wl,-z,defs)
endif()
set_target_properties(streamer PROPERTIES LINK_DEPENDS ${STREAMER_MAP})
if(STREAMER_STATIC_RUNTIME)
  add_library(old_glibc STATIC compat/old_glibc.c)
  target_link_libraries(streamer PRIVATE old_glibc)
  target_link_options(streamer PRIVATE -static-libstdc++)
endif()

if(SKBUILD)
  # In a wheel there are no links: the file's name is the SONAME. The place is where embedders of
  # the package look for it.
  set(STREAMER_PACKAGE_DIR runai_model_streamer/libstreamer)
  install(TARGETS streamer LIBRARY DESTINATION ${STREAMER_PACKAGE_DIR}/lib COMPONENT python)
  install(DIRECTORY include/streamer DESTINATION ${STREAMER_PACKAGE_DIR}/include COMPONENT python)
  if(STREAMER_LICENSES)
    install(DIRECTORY "${STREAMER_LICENSES}/" DESTINATION "${SKBUILD_METADATA_DIR}/licenses"
            COMPONENT python)
  endif()
  return()
endif()

set_target_properties(streamer PROPERTIES VERSION ${PROJECT_VERSION} SOVERSION 0)
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
install(TARGETS streamer EXPORT model_streamer LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(DIRECTORY include/streamer DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(STREAMER_LICENSES)
  install(DIRECTORY "${STREAMER_LICENSES}/"
          DESTINATION ${CMAKE_INSTALL_DATADIR}/licenses/model_streamer)
endif()
set(STREAMER_CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/model_streamer)
install(EXPORT model_streamer NAMESPACE model_streamer:: FILE model_streamerTargets.cmake
        DESTINATION ${STREAMER_CONFIG_DIR})
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/package/model_streamerConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/model_streamerConfig.cmake INSTALL_DESTINATION ${STREAMER_CONFIG_DIR})
write_basic_package_version_file(
  ${CMAKE_CURRENT_BINARY_DIR}/model_streamerConfigVersion.cmake COMPATIBILITY SameMinorVersion)
# Names that programs for the original's SDK ask for.
set(STREAMER_SDK_CONFIG_DIR ${CMAKE_INSTALL_LIBDIR}/cmake/runai-streamer)
configure_package_config_file(
  ${PROJECT_SOURCE_DIR}/cmake/package/runai-streamerConfig.cmake.in
  ${CMAKE_CURRENT_BINARY_DIR}/runai-streamerConfig.cmake
  INSTALL_DESTINATION ${STREAMER_SDK_CONFIG_DIR})
write_basic_package_version_file(
  ${CMAKE_CURRENT_BINARY_DIR}/runai-streamerConfigVersion.cmake COMPATIBILITY SameMajorVersion)
# Relative, so that the installed tree can be moved.
file(RELATIVE_PATH STREAMER_PC_PREFIX ${CMAKE_INSTALL_FULL_LIBDIR}/pkgconfig ${CMAKE_INSTALL_PREFIX})
foreach(STREAMER_PC_NAME model_streamer runai-streamer)
  configure_file(${PROJECT_SOURCE_DIR}/cmake/package/streamer.pc.in
                 ${CMAKE_CURRENT_BINARY_DIR}/${STREAMER_PC_NAME}.pc @ONLY)
endforeach()
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/model_streamerConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/model_streamerConfigVersion.cmake
        DESTINATION ${STREAMER_CONFIG_DIR})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/runai-streamerConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/runai-streamerConfigVersion.cmake
        DESTINATION ${STREAMER_SDK_CONFIG_DIR})
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/model_streamer.pc
              ${CMAKE_CURRENT_BINARY_DIR}/runai-streamer.pc
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
