// Command shoal is the daemon and the CLI of shoal.
package main

func main() {}
