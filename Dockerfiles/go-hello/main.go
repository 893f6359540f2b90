// Hello greets those named on its command line.
package main

import (
	"fmt"
	"os"

	"example.org/hello/greet"
)

// Set by the linker.
var version = "unset"

func main() {
	if len(os.Args) == 2 && os.Args[1] == "--version" {
		fmt.Println("hello", version)
		return
	}
	fmt.Println(greet.For(os.Args[1:]))
}
