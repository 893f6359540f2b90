echo 1>"a b"; echo 2>a; echo 3>b
