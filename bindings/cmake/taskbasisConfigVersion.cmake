# A version serves those who ask for it or an older one, as long as nothing broke between: below 1.0 the minor version
# must be the same, from 1.0 the major one.
set(PACKAGE_VERSION "0.1.0")

string(REGEX MATCH "^([0-9]+)\\.([0-9]+)" _taskbasis_series "${PACKAGE_VERSION}")
if(CMAKE_MATCH_1 GREATER 0)
  set(_taskbasis_series "${CMAKE_MATCH_1}")
endif()
if(PACKAGE_FIND_VERSION VERSION_GREATER PACKAGE_VERSION OR
   NOT "${PACKAGE_FIND_VERSION}." MATCHES "^${_taskbasis_series}\\.")
  set(PACKAGE_VERSION_COMPATIBLE FALSE)
else()
  set(PACKAGE_VERSION_COMPATIBLE TRUE)
  if(PACKAGE_FIND_VERSION VERSION_EQUAL PACKAGE_VERSION)
    set(PACKAGE_VERSION_EXACT TRUE)
  endif()
endif()
unset(_taskbasis_series)
