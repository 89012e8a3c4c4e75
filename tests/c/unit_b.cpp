#include "taskbasis.hpp"

std::string library_version();
std::string library_version() { return tb_version_string(); }
