# find_package(strata) gives strata::strata, the shared library, and strata::static. For lib/cmake/strata beside the
# libraries; the tree can be moved as a whole.
get_filename_component(_strata_prefix "${CMAKE_CURRENT_LIST_DIR}/../../.." ABSOLUTE)
include(CMakeFindDependencyMacro)
find_dependency(Threads)
if(NOT TARGET strata::strata)
  add_library(strata::strata SHARED IMPORTED)
  set_target_properties(strata::strata PROPERTIES
    IMPORTED_LOCATION "${_strata_prefix}/lib/libstrata.so.1"
    IMPORTED_SONAME libstrata.so.1
    INTERFACE_INCLUDE_DIRECTORIES "${_strata_prefix}/include")
  add_library(strata::static STATIC IMPORTED)
  set_target_properties(strata::static PROPERTIES
    IMPORTED_LOCATION "${_strata_prefix}/lib/libstrata.a"
    INTERFACE_INCLUDE_DIRECTORIES "${_strata_prefix}/include"
    INTERFACE_LINK_LIBRARIES "gcc_s;util;rt;Threads::Threads;m;${CMAKE_DL_LIBS}")
endif()
unset(_strata_prefix)
