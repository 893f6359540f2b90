mkdir d; echo 1 >d/f; printf "FROM scratch\nCOPY . /inner\n" >d/Dockerfile
