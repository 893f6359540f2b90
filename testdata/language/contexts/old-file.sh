mkdir d; echo 1 >f; echo 2 >d/g; touch -d @1000000000 f; touch -d @1100000000 d/g
