/* Says what the controller is, and whether it is what it was. */

#include "controller.h"

#include <stdio.h>

int main(void)
{
    static fq_controller c;
    int line, wrong;
    for (line = 0; fq_metadata[line] != 0; ++line) {
        printf("%s\n", fq_metadata[line]);
    }
    wrong = fq_self_test(&c);
    printf("self-test: %s%s%s\n", wrong == 0 ? "passed" : "FAILED", (wrong & 1) != 0 ? ", a weight was changed" : "",
           (wrong & 2) != 0 ? ", an action is another" : "");
    return wrong;
}
