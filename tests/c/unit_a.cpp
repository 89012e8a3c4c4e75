// One of two units that include the C++ header and are linked into one program: it must define nothing twice.
#include "taskbasis.hpp"

std::string library_version();

int main() {
    return library_version() == tb_version_string() ? 0 : 1;
}
