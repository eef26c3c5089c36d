# cmake -DPROGRAM=... -DEXPECTED=file -P compare_output.cmake: runs a program without arguments and
# fails unless it ends with 0 and prints the expected text. Times ("1.234 ms") differ on every run:
# what is compared is "# ms", on both sides.
execute_process(COMMAND "${PROGRAM}" OUTPUT_VARIABLE printed ERROR_VARIABLE errors RESULT_VARIABLE status)
file(READ "${EXPECTED}" expected)
foreach(text printed expected)
  string(REGEX REPLACE "[0-9]+\\.[0-9]+ ms" "# ms" ${text} "${${text}}")
endforeach()
if(NOT status STREQUAL "0" OR NOT printed STREQUAL expected)
  message("${PROGRAM} printed\n${printed}${errors}\nexpected (${EXPECTED}):\n${expected}")
  message(FATAL_ERROR "another text than expected, or a failure: exit status ${status}")
endif()
