mkdir t; echo 1>t/f; tar -C t -czf data f; rm -r t
