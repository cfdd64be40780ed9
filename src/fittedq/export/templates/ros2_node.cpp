// A ROS 2 node around the controller: observations in on ~/observation, actions out on ~/action, at each sample.
// Text to start from; it was compiled against stubs of its headers, and run by nobody here.
// In your package: ament_target_dependencies(... rclcpp std_msgs).

#include <chrono>
#include <memory>
#include <stdexcept>
#include <vector>

#include "controller.h"
#include "rclcpp/rclcpp.hpp"
#include "std_msgs/msg/float32_multi_array.hpp"

using std_msgs::msg::Float32MultiArray;

class Controller : public rclcpp::Node
{
public:
  Controller() : Node("controller")
  {
    if (fq_self_test(&state_) != 0) {
      throw std::runtime_error("the controller is not what it was");
    }
    fq_init(&state_);
    publisher_ = create_publisher<Float32MultiArray>("~/action", 1);
    subscription_ = create_subscription<Float32MultiArray>(
      "~/observation", 1, [this](const Float32MultiArray & message) { newest_ = message.data; });
    timer_ = create_wall_timer(std::chrono::duration<double>($seconds), [this] { sample(); });
  }

private:
  void sample()
  {
    if (newest_.size() != FQ_OBSERVATIONS) {
      return;
    }
    Float32MultiArray action;
    action.data.resize(FQ_ACTIONS);
    const int status = fq_step(&state_, newest_.data(), action.data.data());
    if (status != FQ_OK && status != FQ_LIMITED) {
      RCLCPP_WARN_THROTTLE(get_logger(), *get_clock(), 1000, "fallback: status %d", status);
    }
    publisher_->publish(action);
  }

  fq_controller state_;
  std::vector<float> newest_;
  rclcpp::Publisher<Float32MultiArray>::SharedPtr publisher_;
  rclcpp::Subscription<Float32MultiArray>::SharedPtr subscription_;
  rclcpp::TimerBase::SharedPtr timer_;
};

int main(int argc, char ** argv)
{
  rclcpp::init(argc, argv);
  rclcpp::spin(std::make_shared<Controller>());
  rclcpp::shutdown();
  return 0;
}
