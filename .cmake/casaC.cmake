# casa::c, the C interface: a static library that is compiled in the project that links it, with that
# project's flags, and only if something does. Read by casa's own build, which says where the headers
# are (casa_c_include), and by the installed package, as casaTargets-c.cmake.
if(NOT TARGET casa_c)
  if(NOT casa_c_include)
    get_target_property(casa_c_include casa::casa INTERFACE_INCLUDE_DIRECTORIES)
  endif()
  find_package(Threads REQUIRED)
  add_library(casa_c STATIC EXCLUDE_FROM_ALL "${casa_c_include}/casa/c/casa.cpp")
  target_include_directories(casa_c INTERFACE "$<BUILD_INTERFACE:${casa_c_include}>")
  target_link_libraries(casa_c PRIVATE casa::casa PUBLIC ${CMAKE_THREAD_LIBS_INIT})
  set_target_properties(casa_c PROPERTIES POSITION_INDEPENDENT_CODE ON)
  add_library(casa::c ALIAS casa_c)
endif()
