# find_package(taskbasis 0.1 CONFIG REQUIRED) defines
#   taskbasis::taskbasis   the shared library
#   taskbasis::static      the static library, with the system libraries that it needs
# each where it is installed, with the folder of taskbasis.h and taskbasis.hpp.
# Paths are relative to this file, so the installed tree may be moved.

# This file is three folders below the prefix: lib/cmake/taskbasis (make install), share/taskbasis/cmake (cargo-c).
get_filename_component(_taskbasis_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)

function(_taskbasis_import target kind file)
  if(TARGET ${target})
    return()
  endif()
  foreach(folder lib lib64 "lib/${CMAKE_LIBRARY_ARCHITECTURE}")
    set(path "${_taskbasis_prefix}/${folder}/${file}")
    if(EXISTS "${path}")
      add_library(${target} ${kind} IMPORTED)
      set_target_properties(${target} PROPERTIES
        IMPORTED_LOCATION "${path}"
        INTERFACE_INCLUDE_DIRECTORIES "${_taskbasis_prefix}/include")
      return()
    endif()
  endforeach()
endfunction()

if(APPLE)
  _taskbasis_import(taskbasis::taskbasis SHARED libtaskbasis.dylib)
else()
  _taskbasis_import(taskbasis::taskbasis SHARED libtaskbasis.so)
endif()
_taskbasis_import(taskbasis::static STATIC libtaskbasis.a)
if(TARGET taskbasis::static AND NOT APPLE)
  set_target_properties(taskbasis::static PROPERTIES INTERFACE_LINK_LIBRARIES "gcc_s;util;rt;pthread;m;dl;c")
endif()

if(NOT TARGET taskbasis::taskbasis AND NOT TARGET taskbasis::static)
  set(taskbasis_FOUND FALSE)
  set(taskbasis_NOT_FOUND_MESSAGE "no libtaskbasis in ${_taskbasis_prefix}/lib")
endif()
unset(_taskbasis_prefix)
