// Command hello is a web server that says which pod and node it is, and the
// client for it: `hello get URL TIMES` gets a page so often, each time over a
// connection of its own. The busybox of some hosts cannot look up names.
package main

import (
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"
)

const within = 5 * time.Second

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 3 && args[0] == "get" {
		times, err := strconv.Atoi(args[2])
		if err != nil {
			return err
		}
		return get(args[1], times)
	}
	fmt.Println("listening")
	server := &http.Server{Addr: ":80", ReadHeaderTimeout: within, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "%s on %s\n", os.Getenv("POD_NAME"), os.Getenv("NODE_NAME"))
	})}
	return server.ListenAndServe()
}

func get(url string, times int) error {
	// Which server answers is what is tested, not who it says it is.
	client := &http.Client{Timeout: within, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}}
	for range times {
		response, err := client.Get(url)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, response.Body)
		if closeErr := response.Body.Close(); err == nil {
			err = closeErr
		}
		if err != nil {
			return err
		}
		fmt.Println()
	}
	return nil
}
